package suite

// What somebody learns who records every packet on the nodes' networks.

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/capture"
	"trellis.dev/e2e/suite/kube"
)

const (
	tunnelPort = 15008
	// The canary stands in what meshed pods say to each other, the beacon in what others say: the one
	// must not be found, the other must be, or the capture proves nothing.
	canary = "canary-5b6f0c"
	beacon = "beacon-e7a214"
	// From catalog.py.
	catalogCanary = "canary-table-7d1e"
	// Not what the API server, the kubelet and the container runtime say to each other: that is how the
	// recording itself comes to us, and it must not record itself.
	recorded = "(tcp or udp) and not port 6443 and not port 10250 and not net 127.0.0.0/8 and not host ::1"
)

// C-01, C-05, T-01, Z-03, Z-08, A-06, A-09.
func TestEavesdropperSeesOnlyPostQuantumTLS(t *testing.T) {
	namespace(t, "e2e-tap", nil)
	recordings := tap(t, "e2e-tap")

	// A client of its own, so that its tunnels begin under the eavesdropper's eyes; on the other node
	// than catalog and orders.
	namespace(t, "e2e-wire", map[string]string{bed.Inject: "enabled"})
	apply(t, manifest(t, podOf("e2e-wire", func(metadata, spec map[string]any) {
		metadata["name"] = "client"
		spec["nodeName"] = mesh.Nodes[0]
	})))
	client := ready(t, "e2e-wire", "client")
	meshed := addresses(pods(t, "shop", "app in (web,catalog,orders)"), []kube.Pod{*client})
	families := []int{4}
	if client.Address(6) != "" {
		families = append(families, 6)
	}
	catalog, orders := pod(t, "shop", "catalog"), pod(t, "shop", "orders")
	for _, family := range families {
		ask(t, client, "--count=3", "--fresh",
			"http://"+hostPort(catalog.Address(family), 8000)+"/items",
			"tcp://"+hostPort(orders.Address(family), 7000))
	}
	ask(t, client, "--count=3", "http://web.shop/echo/"+canary, "http://web.shop/")
	// In plaintext between two pods outside, last of all: once it is recorded, everything is.
	ask(t, pod(t, "outside", "client"), "--count=1", "http://web/echo/"+beacon)

	var packets []capture.Packet
	for node, recording := range recordings {
		eventually(t, "beacon on node "+node, func() error {
			if !bytes.Contains(recording.Output(), []byte(beacon)) {
				return fmt.Errorf("not among %d bytes", len(recording.Output()))
			}
			return nil
		})
		recording.Stop()
		found, err := capture.ReadPackets(bytes.NewReader(recording.Output()))
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, found...)
	}

	between := 0
	for _, packet := range packets {
		for _, secret := range []string{canary, catalogCanary} {
			if bytes.Contains(packet.Payload, []byte(secret)) {
				t.Errorf("%q in a packet from %s to %s", secret, packet.Source, packet.Destination)
			}
		}
		if !meshed[packet.Source.Addr()] || !meshed[packet.Destination.Addr()] {
			continue
		}
		between++
		// A certificate would carry its owner's name.
		if bytes.Contains(packet.Payload, []byte("spiffe://")) {
			t.Errorf("an identity in a packet from %s to %s", packet.Source, packet.Destination)
		}
		if packet.Protocol != capture.TCP || (packet.Source.Port() != tunnelPort && packet.Destination.Port() != tunnelPort) {
			t.Errorf("packet of protocol %d from %s to %s", packet.Protocol, packet.Source, packet.Destination)
		}
	}
	if between == 0 {
		t.Fatal("no packet between meshed pods was seen")
	}
	checkHandshakes(t, packets, meshed, len(families))
}

func checkHandshakes(t *testing.T, packets []capture.Packet, meshed map[netip.Addr]bool, families int) {
	t.Helper()
	seen := map[bool]int{}
	for _, flow := range capture.Flows(packets) {
		if !meshed[flow.Client.Addr()] || !meshed[flow.Server.Addr()] {
			continue
		}
		handshake, err := flow.TLS()
		if err != nil {
			t.Errorf("%s to %s: %v", flow.Client, flow.Server, err)
			continue
		}
		seen[flow.Client.Addr().Is4()]++
		if !slices.Equal(handshake.OfferedGroups, []uint16{capture.X25519MLKEM768}) || !slices.Equal(handshake.KeyShares, []uint16{capture.X25519MLKEM768}) {
			t.Errorf("the client offered groups %x and key shares %x", handshake.OfferedGroups, handshake.KeyShares)
		}
		if handshake.Group != capture.X25519MLKEM768 || handshake.Version != capture.TLS13 {
			t.Errorf("the server selected group %x, version %x", handshake.Group, handshake.Version)
		}
		// One hello of each side and nothing else: certificates and their verification are encrypted.
		if !bytes.Equal(handshake.Clear, []byte{capture.ClientHelloMessage, capture.ServerHelloMessage}) {
			t.Errorf("handshake messages in the clear: %v", handshake.Clear)
		}
		if handshake.ServerName != "" {
			t.Errorf("the client named %q in the clear", handshake.ServerName)
		}
		// Both sides' certificates and signatures of ML-DSA-65 have been among what was encrypted.
		if handshake.Encrypted < 4*3309 {
			t.Errorf("only %d bytes encrypted", handshake.Encrypted)
		}
	}
	if len(seen) != families {
		t.Errorf("handshakes were seen over %d address families, want %d: %v", len(seen), families, seen)
	}
	t.Logf("handshakes seen: IPv4 %d, IPv6 %d", seen[true], seen[false])
}

// tap records all TCP and UDP on the network of each node.
func tap(t *testing.T, namespace string) map[string]*kube.Recording {
	t.Helper()
	recordings := map[string]*kube.Recording{}
	for i, node := range mesh.Nodes {
		name := fmt.Sprintf("tap-%d", i)
		apply(t, manifest(t, map[string]any{
			"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name, "namespace": namespace},
			"spec": map[string]any{
				"nodeName": node, "hostNetwork": true, "terminationGracePeriodSeconds": 1,
				"containers": []any{map[string]any{
					"name": "tcpdump", "image": "trellis.dev/e2e/tcpdump:1", "command": []string{"/usr/bin/sleep", "infinity"},
					"securityContext": map[string]any{"runAsUser": 0, "capabilities": map[string]any{"add": []string{"NET_RAW", "NET_ADMIN"}}},
				}},
			},
		}))
		ready(t, namespace, name)
		recording, err := cluster.Record(t.Context(), namespace, name, "tcpdump",
			"/usr/bin/tcpdump", "-Z", "root", "-i", "any", "-s", "0", "-B", "16384", "-U", "-w", "-", recorded)
		if err != nil {
			t.Fatal(err)
		}
		recordings[node] = recording
	}
	return recordings
}

func addresses(groups ...[]kube.Pod) map[netip.Addr]bool {
	found := map[netip.Addr]bool{}
	for _, group := range groups {
		for _, pod := range group {
			for _, address := range pod.Status.PodIPs {
				if parsed, err := netip.ParseAddr(address.IP); err == nil {
					found[parsed] = true
				}
			}
		}
	}
	return found
}
