package capture

// What of a TLS handshake can be read without any key.

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Numbers of the TLS registries.
const (
	X25519MLKEM768 = 0x11ec
	TLS13          = 0x0304

	recordChangeCipherSpec = 20
	recordAlert            = 21
	recordHandshake        = 22
	recordApplication      = 23

	ClientHelloMessage = 1
	ServerHelloMessage = 2
	CertificateMessage = 11

	extensionServerName = 0
	extensionGroups     = 10
	extensionALPN       = 16
	extensionVersions   = 43
	extensionKeyShare   = 51
)

// Handshake is what both sides sent in the clear.
type Handshake struct {
	// Offered by the client.
	OfferedVersions []uint16
	OfferedGroups   []uint16
	KeyShares       []uint16
	ServerName      string
	ALPN            []string
	// Selected by the server; 0 where it answered with nothing.
	Version uint16
	Group   uint16
	// Clear lists the types of all handshake messages that were not encrypted, client's then server's.
	Clear []byte
	// Alerts lists the descriptions of alerts that were not encrypted.
	Alerts []byte
	// Encrypted counts the bytes of encrypted records.
	Encrypted int
}

var errNotTLS = errors.New("not TLS")

// TLS reads the handshake at the beginning of a connection.
func (f Flow) TLS() (Handshake, error) {
	var h Handshake
	hellos, err := h.records(f.Sent)
	if err != nil {
		return h, fmt.Errorf("client: %w", err)
	}
	for _, hello := range hellos {
		if hello.kind == ClientHelloMessage {
			if err := h.clientHello(hello.body); err != nil {
				return h, fmt.Errorf("ClientHello: %w", err)
			}
		}
	}
	hellos, err = h.records(f.Received)
	if err != nil {
		return h, fmt.Errorf("server: %w", err)
	}
	for _, hello := range hellos {
		if hello.kind == ServerHelloMessage {
			if err := h.serverHello(hello.body); err != nil {
				return h, fmt.Errorf("ServerHello: %w", err)
			}
		}
	}
	return h, nil
}

type message struct {
	kind byte
	body []byte
}

// records walks one side's records. Once an encrypted record was seen, nothing may be in the clear.
func (h *Handshake) records(data []byte) ([]message, error) {
	var clear []byte
	for first := true; len(data) >= 5; first = false {
		kind, length := data[0], int(binary.BigEndian.Uint16(data[3:]))
		if kind < recordChangeCipherSpec || kind > recordApplication || data[1] != 3 || length > 1<<14+256 {
			return nil, fmt.Errorf("%w: record begins % x", errNotTLS, data[:5])
		}
		if first && kind != recordHandshake && kind != recordAlert {
			return nil, fmt.Errorf("%w: first record has type %d", errNotTLS, kind)
		}
		body := data[5:min(5+length, len(data))]
		data = data[5+len(body):]
		switch kind {
		case recordHandshake:
			clear = append(clear, body...)
		case recordApplication:
			h.Encrypted += len(body)
		case recordAlert:
			if len(body) == 2 {
				h.Alerts = append(h.Alerts, body[1])
			}
		}
	}
	var messages []message
	for len(clear) >= 4 {
		length := int(clear[1])<<16 | int(clear[2])<<8 | int(clear[3])
		end := min(4+length, len(clear))
		messages = append(messages, message{clear[0], clear[4:end]})
		h.Clear = append(h.Clear, clear[0])
		clear = clear[end:]
	}
	return messages, nil
}

func (h *Handshake) clientHello(body []byte) error {
	r := reader{body}
	r.skip(2 + 32)
	r.vector8()
	r.vector16()
	r.vector8()
	return r.extensions(func(kind uint16, e reader) {
		switch kind {
		case extensionServerName:
			list := reader{e.vector16()}
			list.skip(1)
			h.ServerName = string(list.vector16())
		case extensionGroups:
			h.OfferedGroups = uint16s(e.vector16())
		case extensionALPN:
			for list := (reader{e.vector16()}); len(list.data) > 0; {
				h.ALPN = append(h.ALPN, string(list.vector8()))
			}
		case extensionVersions:
			h.OfferedVersions = uint16s(e.vector8())
		case extensionKeyShare:
			for list := (reader{e.vector16()}); len(list.data) > 0; {
				h.KeyShares = append(h.KeyShares, list.uint16())
				list.vector16()
			}
		}
	})
}

func (h *Handshake) serverHello(body []byte) error {
	r := reader{body}
	h.Version = r.uint16()
	r.skip(32)
	r.vector8()
	r.skip(2 + 1)
	return r.extensions(func(kind uint16, e reader) {
		switch kind {
		case extensionVersions:
			h.Version = e.uint16()
		case extensionKeyShare:
			h.Group = e.uint16()
		}
	})
}

// reader takes TLS's length-prefixed fields; what is too short reads as empty.
type reader struct{ data []byte }

func (r *reader) skip(n int) { r.take(n) }

func (r *reader) take(n int) []byte {
	n = min(n, len(r.data))
	taken := r.data[:n]
	r.data = r.data[n:]
	return taken
}

func (r *reader) uint16() uint16 {
	if len(r.data) < 2 {
		r.data = nil
		return 0
	}
	return binary.BigEndian.Uint16(r.take(2))
}

func (r *reader) vector8() []byte {
	if len(r.data) == 0 {
		return nil
	}
	return r.take(int(r.take(1)[0]))
}

func (r *reader) vector16() []byte { return r.take(int(r.uint16())) }

func (r *reader) extensions(each func(uint16, reader)) error {
	if len(r.data) == 0 {
		return errors.New("cut short before its extensions")
	}
	declared := r.uint16()
	if int(declared) > len(r.data) {
		return errors.New("cut short within its extensions")
	}
	for rest := (reader{r.take(int(declared))}); len(rest.data) > 0; {
		kind := rest.uint16()
		each(kind, reader{rest.vector16()})
	}
	return nil
}

func uint16s(data []byte) []uint16 {
	var values []uint16
	for ; len(data) >= 2; data = data[2:] {
		values = append(values, binary.BigEndian.Uint16(data))
	}
	return values
}
