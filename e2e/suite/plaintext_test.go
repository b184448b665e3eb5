package suite

// Traffic with those who are not in the mesh goes on in plaintext, and is counted with its reason.

import (
	"strings"
	"testing"

	trellis "trellis.dev/e2e/suite/mesh"
)

// T-17 (the permissive half): a client without a proxy reaches a server with one.
func TestOutsiderReachesTheShopAndIsCounted(t *testing.T) {
	outsider, server := pod(t, "outside", "client"), pod(t, "shop", "orders")
	before := evidence(t, server)
	ask(t, outsider, "--count=3", "--fresh", "tcp://orders.shop:7000")
	rows := func(c *trellis.Connections) bool {
		return c.Class == "plaintext" && c.TLS == nil && c.Why() != "" && c.Why() != "kubelet_probe" &&
			c.Destination == identity("shop", "orders") && strings.HasPrefix(c.Source, "unverified:")
	}
	if counted := grown(before.Inbound, evidence(t, server).Inbound, rows); counted != 3 {
		t.Errorf("%d connections were counted as plaintext with a reason, want 3: %+v", counted, evidence(t, server).Inbound)
	}
}

// A client with a proxy reaches a server without one, over its Service and directly.
func TestShopReachesOutsidersAndCountsIt(t *testing.T) {
	client, server := pod(t, "shop", "client"), pod(t, "outside", "web")
	before := evidence(t, client)
	ask(t, client, "--count=3", "--fresh", "http://web.outside/echo/hello")
	ask(t, client, "--count=2", "--fresh", "http://"+hostPort(server.Status.PodIP, 8080)+"/echo/hello")
	after := evidence(t, client)
	counted := grown(before.Outbound, after.Outbound, func(c *trellis.Connections) bool {
		return c.Class == "plaintext" && c.Why() == "not_injected" && c.Source == identity("shop", "client")
	})
	if counted != 5 {
		t.Errorf("%d connections were counted as plaintext for not_injected, want 5: %+v", counted, after.Outbound)
	}
}

// Probes of the kubelet pass, and do not spoil the figures.
func TestProbesAreCountedApart(t *testing.T) {
	rows := evidence(t, pod(t, "shop", "orders")).Inbound
	probes := trellis.Count(rows, func(c *trellis.Connections) bool { return c.Why() == "kubelet_probe" })
	if probes == 0 {
		t.Errorf("no probe was recognised in %+v", rows)
	}
}
