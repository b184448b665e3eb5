package capture

// TCP connections put together from their segments.

import (
	"net/netip"
	"sort"
)

// Flow is one TCP connection whose beginning was captured.
type Flow struct {
	Client, Server netip.AddrPort
	// Sent and Received are the bytes of the client and of the server, up to the first gap.
	Sent, Received []byte
}

type direction struct{ source, destination netip.AddrPort }

type half struct {
	next     uint32
	segments []Packet
}

// Flows puts connections together. A packet that was seen on two interfaces counts once. Connections
// that had begun before the capture are left out: Packets still has what they sent.
func Flows(packets []Packet) []Flow {
	type pair struct{ client, server *half }
	var order []direction
	flows := map[direction]*pair{}
	for _, packet := range packets {
		if packet.Protocol != TCP {
			continue
		}
		there := direction{packet.Source, packet.Destination}
		back := direction{packet.Destination, packet.Source}
		switch {
		case packet.Syn && !packet.Ack:
			known := flows[there]
			if known == nil || known.client.next != packet.Sequence+1 {
				if known == nil {
					order = append(order, there)
				}
				flows[there] = &pair{client: &half{next: packet.Sequence + 1}}
			}
		case packet.Syn:
			if known := flows[back]; known != nil && known.server == nil {
				known.server = &half{next: packet.Sequence + 1}
			}
		case flows[there] != nil:
			flows[there].client.segments = append(flows[there].client.segments, packet)
		case flows[back] != nil && flows[back].server != nil:
			flows[back].server.segments = append(flows[back].server.segments, packet)
		}
	}
	found := make([]Flow, 0, len(order))
	for _, key := range order {
		pair := flows[key]
		flow := Flow{Client: key.source, Server: key.destination, Sent: pair.client.bytes()}
		if pair.server != nil {
			flow.Received = pair.server.bytes()
		}
		found = append(found, flow)
	}
	return found
}

// bytes in the order in which they were sent; sequence numbers wrap, so only distances compare.
func (h *half) bytes() []byte {
	start := h.next
	sort.SliceStable(h.segments, func(i, j int) bool {
		return int32(h.segments[i].Sequence-start) < int32(h.segments[j].Sequence-start)
	})
	var data []byte
	for _, segment := range h.segments {
		offset := int64(int32(segment.Sequence - start))
		already := int64(len(data)) - offset
		if already < 0 {
			break
		}
		if already < int64(len(segment.Payload)) {
			data = append(data, segment.Payload[already:]...)
		}
	}
	return data
}
