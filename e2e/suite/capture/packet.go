// Package capture reads packet captures and says what an eavesdropper learns from them: who talked to
// whom on which port, and what of a TLS handshake stood there in the clear.
package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// Packet is one TCP segment, or a packet of another protocol with only its addresses.
type Packet struct {
	Source, Destination netip.AddrPort
	Protocol            uint8
	Sequence            uint32
	Syn, Ack, Fin, Rst  bool
	Payload             []byte
}

// Protocol numbers of IP.
const (
	TCP = 6
	UDP = 17
)

// Link types of the pcap format.
const (
	linkEthernet = 1
	linkRaw      = 101
	linkCooked   = 113
	linkCooked2  = 276
)

const maxPacket = 1 << 20

// ReadPackets reads a pcap file. A file that ends within a packet, as one does that is still being
// written, gives the packets before it.
func ReadPackets(from io.Reader) ([]Packet, error) {
	header := make([]byte, 24)
	if _, err := io.ReadFull(from, header); err != nil {
		return nil, fmt.Errorf("pcap header: %w", err)
	}
	var order binary.ByteOrder
	switch magic := binary.LittleEndian.Uint32(header); magic {
	case 0xa1b2c3d4, 0xa1b23c4d:
		order = binary.LittleEndian
	case 0xd4c3b2a1, 0x4d3cb2a1:
		order = binary.BigEndian
	default:
		return nil, fmt.Errorf("not a pcap file: magic %08x", magic)
	}
	link := order.Uint32(header[20:]) & 0xffff
	var packets []Packet
	for {
		head := make([]byte, 16)
		if _, err := io.ReadFull(from, head); err != nil {
			return packets, endOf(err)
		}
		length := order.Uint32(head[8:])
		if length > maxPacket {
			return nil, fmt.Errorf("packet %d claims %d bytes", len(packets), length)
		}
		data := make([]byte, length)
		if _, err := io.ReadFull(from, data); err != nil {
			return packets, endOf(err)
		}
		network, err := networkLayer(link, data)
		if err != nil {
			return nil, err
		}
		if packet, ok := parseIP(network); ok {
			packets = append(packets, packet)
		}
	}
}

func endOf(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// networkLayer strips the link layer; nil for what does not carry IP.
func networkLayer(link uint32, data []byte) ([]byte, error) {
	var skip, kind int
	switch link {
	case linkRaw:
		return data, nil
	case linkEthernet:
		skip, kind = 14, 12
	case linkCooked:
		skip, kind = 16, 14
	case linkCooked2:
		skip, kind = 20, 0
	default:
		return nil, fmt.Errorf("unknown link type %d", link)
	}
	if len(data) < skip {
		return nil, nil
	}
	switch binary.BigEndian.Uint16(data[kind:]) {
	case 0x0800, 0x86dd:
		return data[skip:], nil
	}
	return nil, nil
}

func parseIP(data []byte) (Packet, bool) {
	if len(data) < 20 {
		return Packet{}, false
	}
	switch data[0] >> 4 {
	case 4:
		header, total := int(data[0]&0xf)*4, int(binary.BigEndian.Uint16(data[2:]))
		if header < 20 || total < header || total > len(data) {
			return Packet{}, false
		}
		return parseTransport(netip.AddrFrom4([4]byte(data[12:16])), netip.AddrFrom4([4]byte(data[16:20])), data[9], data[header:total])
	case 6:
		if len(data) < 40 {
			return Packet{}, false
		}
		total := 40 + int(binary.BigEndian.Uint16(data[4:]))
		if total > len(data) {
			return Packet{}, false
		}
		// Extension headers do not occur in what Kubernetes pods send; such a packet keeps its
		// first header's number as its protocol.
		return parseTransport(netip.AddrFrom16([16]byte(data[8:24])), netip.AddrFrom16([16]byte(data[24:40])), data[6], data[40:total])
	}
	return Packet{}, false
}

func parseTransport(source, destination netip.Addr, protocol uint8, data []byte) (Packet, bool) {
	packet := Packet{
		Source: netip.AddrPortFrom(source, 0), Destination: netip.AddrPortFrom(destination, 0), Protocol: protocol,
	}
	if (protocol == TCP || protocol == UDP) && len(data) >= 4 {
		packet.Source = netip.AddrPortFrom(source, binary.BigEndian.Uint16(data))
		packet.Destination = netip.AddrPortFrom(destination, binary.BigEndian.Uint16(data[2:]))
	}
	switch {
	case protocol == UDP && len(data) >= 8:
		packet.Payload = data[8:]
	case protocol == TCP:
		if len(data) < 20 {
			return Packet{}, false
		}
		offset := int(data[12]>>4) * 4
		if offset < 20 || offset > len(data) {
			return Packet{}, false
		}
		flags := data[13]
		packet.Fin, packet.Syn, packet.Rst, packet.Ack = flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&16 != 0
		packet.Sequence = binary.BigEndian.Uint32(data[4:])
		packet.Payload = data[offset:]
	}
	return packet, true
}
