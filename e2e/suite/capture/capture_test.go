package capture

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

var (
	client4 = netip.MustParseAddrPort("10.1.0.5:40000")
	server4 = netip.MustParseAddrPort("10.2.0.6:15008")
	client6 = netip.MustParseAddrPort("[fd00::5]:40000")
	server6 = netip.MustParseAddrPort("[fd00::6]:15008")
)

// wire writes a pcap file, as a capture of one interface would be.
type wire struct {
	bytes.Buffer
	link uint32
}

func newWire(link uint32) *wire {
	w := &wire{link: link}
	header := make([]byte, 24)
	binary.LittleEndian.PutUint32(header, 0xa1b2c3d4)
	binary.LittleEndian.PutUint32(header[20:], link)
	w.Write(header)
	return w
}

func (w *wire) segment(from, to netip.AddrPort, sequence uint32, flags byte, payload []byte) {
	tcp := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], sequence)
	tcp[12], tcp[13] = 5<<4, flags
	tcp = append(tcp, payload...)
	var ip []byte
	kind := uint16(0x0800)
	if from.Addr().Is4() {
		ip = make([]byte, 20)
		ip[0], ip[9] = 0x45, TCP
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(tcp)))
		copy(ip[12:], from.Addr().AsSlice())
		copy(ip[16:], to.Addr().AsSlice())
	} else {
		kind = 0x86dd
		ip = make([]byte, 40)
		ip[0], ip[6] = 0x60, TCP
		binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
		copy(ip[8:], from.Addr().AsSlice())
		copy(ip[24:], to.Addr().AsSlice())
	}
	var frame []byte
	switch w.link {
	case linkEthernet:
		frame = binary.BigEndian.AppendUint16(make([]byte, 12), kind)
	case linkCooked:
		frame = binary.BigEndian.AppendUint16(make([]byte, 14), kind)
	case linkCooked2:
		frame = append(binary.BigEndian.AppendUint16(nil, kind), make([]byte, 18)...)
	}
	frame = append(append(frame, ip...), tcp...)
	head := make([]byte, 16)
	binary.LittleEndian.PutUint32(head[8:], uint32(len(frame)))
	binary.LittleEndian.PutUint32(head[12:], uint32(len(frame)))
	w.Write(head)
	w.Write(frame)
}

const (
	syn = 2
	ack = 16
)

// connection writes both sides' bytes in small segments, the client's all first.
func (w *wire) connection(client, server netip.AddrPort, sent, received []byte) {
	const clientStart, serverStart = 0xffffff00, 7000
	w.segment(client, server, clientStart, syn, nil)
	w.segment(server, client, serverStart, syn|ack, nil)
	for at := 0; at < len(sent); at += 500 {
		w.segment(client, server, clientStart+1+uint32(at), ack, sent[at:min(at+500, len(sent))])
	}
	for at := 0; at < len(received); at += 500 {
		w.segment(server, client, serverStart+1+uint32(at), ack, received[at:min(at+500, len(received))])
	}
}

// tapped records what is read from a connection.
type tapped struct {
	net.Conn
	mutex sync.Mutex
	read  []byte
}

func (t *tapped) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.read = append(t.read, p[:n]...)
	return n, err
}

// handshake lets Go's own TLS shake hands and returns what went over the wire.
func handshake(t *testing.T, change func(*tls.Config)) (sent, received []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	leaf, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{leaf}, PrivateKey: key}},
		InsecureSkipVerify: true,
		ServerName:         "shop.example",
		NextProtos:         []string{"h2"},
	}
	change(config)
	near, far := net.Pipe()
	client, server := &tapped{Conn: near}, &tapped{Conn: far}
	done := make(chan error, 1)
	go func() {
		tunnel := tls.Server(server, config)
		_, err := tunnel.Write([]byte("the canary sings"))
		done <- err
		far.Close()
	}()
	tunnel := tls.Client(client, config)
	buffer := make([]byte, 100)
	if _, err := tunnel.Read(buffer); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return server.read, client.read
}

func readFlows(t *testing.T, w *wire) []Flow {
	t.Helper()
	packets, err := ReadPackets(bytes.NewReader(w.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return Flows(packets)
}

func TestHybridHandshakeIsReadOnEveryLinkAndBothFamilies(t *testing.T) {
	sent, received := handshake(t, func(*tls.Config) {})
	for _, link := range []uint32{linkEthernet, linkRaw, linkCooked, linkCooked2} {
		for _, ends := range [][2]netip.AddrPort{{client4, server4}, {client6, server6}} {
			w := newWire(link)
			w.connection(ends[0], ends[1], sent, received)
			flows := readFlows(t, w)
			if len(flows) != 1 || flows[0].Client != ends[0] || flows[0].Server != ends[1] {
				t.Fatalf("link %d: flows %v", link, flows)
			}
			h, err := flows[0].TLS()
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(h.OfferedGroups, X25519MLKEM768) || !slices.Contains(h.KeyShares, X25519MLKEM768) {
				t.Errorf("offered groups %x, key shares %x", h.OfferedGroups, h.KeyShares)
			}
			if h.Version != TLS13 || h.Group != X25519MLKEM768 {
				t.Errorf("version %x, group %x", h.Version, h.Group)
			}
			if !bytes.Equal(h.Clear, []byte{ClientHelloMessage, ServerHelloMessage}) || h.Encrypted == 0 {
				t.Errorf("clear messages %v, %d bytes encrypted", h.Clear, h.Encrypted)
			}
			if h.ServerName != "shop.example" || !slices.Equal(h.ALPN, []string{"h2"}) {
				t.Errorf("server name %q, ALPN %v", h.ServerName, h.ALPN)
			}
		}
	}
}

func TestCertificateInTheClearIsSeen(t *testing.T) {
	sent, received := handshake(t, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	w := newWire(linkEthernet)
	w.connection(client4, server4, sent, received)
	h, err := readFlows(t, w)[0].TLS()
	if err != nil {
		t.Fatal(err)
	}
	if h.Version == TLS13 || !slices.Contains(h.Clear, CertificateMessage) {
		t.Errorf("version %x, clear messages %v", h.Version, h.Clear)
	}
}

func TestClassicalGroupIsSeen(t *testing.T) {
	sent, received := handshake(t, func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} })
	w := newWire(linkEthernet)
	w.connection(client4, server4, sent, received)
	h, err := readFlows(t, w)[0].TLS()
	if err != nil {
		t.Fatal(err)
	}
	if h.Group != uint16(tls.X25519) || slices.Contains(h.OfferedGroups, X25519MLKEM768) {
		t.Errorf("group %x of %x", h.Group, h.OfferedGroups)
	}
}

func TestPlaintextIsNotTakenForTLS(t *testing.T) {
	w := newWire(linkEthernet)
	w.connection(client4, server4, []byte("GET / HTTP/1.1\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\n\r\n"))
	if _, err := readFlows(t, w)[0].TLS(); err == nil {
		t.Error("no error")
	}
}

func TestSegmentsTwiceOutOfOrderAndMissing(t *testing.T) {
	w := newWire(linkEthernet)
	w.segment(client4, server4, 10, syn, nil)
	w.segment(client4, server4, 10, syn, nil)
	w.segment(client4, server4, 14, ack, []byte("defg"))
	w.segment(client4, server4, 11, ack, []byte("abc"))
	w.segment(client4, server4, 11, ack, []byte("abcde"))
	w.segment(client4, server4, 30, ack, []byte("after a gap"))
	flows := readFlows(t, w)
	if len(flows) != 1 || string(flows[0].Sent) != "abcdefg" {
		t.Errorf("%d flows, sent %q", len(flows), flows[0].Sent)
	}
}

func TestFileCutShortKeepsWhatCameBefore(t *testing.T) {
	w := newWire(linkEthernet)
	w.segment(client4, server4, 10, syn, nil)
	w.segment(client4, server4, 11, ack, []byte("whole"))
	whole := w.Bytes()
	packets, err := ReadPackets(bytes.NewReader(whole[:len(whole)-3]))
	if err != nil || len(packets) != 1 {
		t.Errorf("%d packets, %v", len(packets), err)
	}
	if _, err := ReadPackets(bytes.NewReader([]byte("not a capture, but long enough"))); err == nil {
		t.Error("no error for what is no pcap file")
	}
}

// A hostile or broken capture must not bring the reader down.
func FuzzRead(f *testing.F) {
	w := newWire(linkEthernet)
	w.connection(client4, server4, []byte{22, 3, 1, 0, 4, 1, 0, 0, 0}, []byte{22, 3, 3, 0, 4, 2, 0, 0, 0})
	f.Add(w.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		packets, err := ReadPackets(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, flow := range Flows(packets) {
			_, _ = flow.TLS()
		}
	})
}
