package suite

// Traffic with those who are not in the mesh goes on in plaintext, and is counted with its reason.

import (
	"fmt"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
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
	counts(t, 3, func() int64 { return grown(before.Inbound, evidence(t, server).Inbound, rows) })
}

// counts waits until so many are counted: who a plaintext peer is, the proxy asks discovery, after it has
// let the connection through.
func counts(t *testing.T, want int64, count func() int64) {
	t.Helper()
	eventually(t, "the count", func() error {
		if counted := count(); counted != want {
			return fmt.Errorf("%d, want %d", counted, want)
		}
		return nil
	})
}

// A client with a proxy reaches a server without one, over its Service and directly.
func TestShopReachesOutsidersAndCountsIt(t *testing.T) {
	client, server := pod(t, "shop", "client"), pod(t, "outside", "web")
	before := evidence(t, client)
	ask(t, client, "--count=3", "--fresh", "http://web.outside/echo/hello")
	ask(t, client, "--count=2", "--fresh", "http://"+hostPort(server.Status.PodIP, 8080)+"/echo/hello")
	// One connection may have carried all five requests.
	counts(t, 1, func() int64 {
		return min(1, grown(before.Outbound, evidence(t, client).Outbound, func(c *trellis.Connections) bool {
			return c.Class == "plaintext" && c.Why() == "not_injected" && c.Source == identity("shop", "client")
		}))
	})
}

// Z-01, T-17 (the strict half): a pod that is strict serves its peers and the kubelet's probes, and nobody
// without an identity; who was refused is counted.
func TestStrictPodRefusesOutsiders(t *testing.T) {
	server := lonely(t, "e2e-strict", map[string]string{"trellis.dev/plaintext": "strict"})
	address := hostPort(server.Status.PodIP, 7000)
	ask(t, pod(t, "shop", "client"), "--count=3", "--fresh", "tcp://"+address)
	outsider := pod(t, "outside", "client")
	text, _, err := cluster.Try(t.Context(), "PING x\n", "exec", "-i", "-n", "outside", outsider.Metadata.Name, "-c", "client", "--", "/usr/bin/load", "dial", address)
	if err != nil || strings.Contains(text, "220") {
		t.Errorf("a stranger was answered %q, %v", text, err)
	}
	counts(t, 1, func() int64 {
		return trellis.Count(evidence(t, server).Inbound, func(c *trellis.Connections) bool { return c.Why() == "refused_plaintext" })
	})
	if safe := trellis.Count(evidence(t, server).Inbound, func(c *trellis.Connections) bool { return c.Class == "pq" }); safe != 3 {
		t.Errorf("%d post-quantum connections, want 3", safe)
	}
}

// A port that is skipped is reached past both proxies, and the client's counts it so.
func TestSkippedPortIsReachedInPlaintext(t *testing.T) {
	server := lonely(t, "e2e-skip", map[string]string{"trellis.dev/skip-inbound-ports": "7000"})
	client := pod(t, "shop", "client")
	before := evidence(t, client)
	ask(t, client, "--count=2", "--fresh", "tcp://"+hostPort(server.Status.PodIP, 7000))
	counts(t, 2, func() int64 {
		return grown(before.Outbound, evidence(t, client).Outbound, func(c *trellis.Connections) bool {
			return c.Class == "plaintext" && c.Why() == "port_skipped"
		})
	})
}

// T-43: a workload chooses the strength of its own certificate.
func TestWorkloadChoosesItsAlgorithm(t *testing.T) {
	server := lonely(t, "e2e-small", map[string]string{"trellis.dev/leaf-algorithm": "ml-dsa-44"})
	ask(t, pod(t, "shop", "client"), "--count=2", "--fresh", "tcp://"+hostPort(server.Status.PodIP, 7000))
	said := evidence(t, server)
	if said.Leaf.Algorithm != "ML-DSA-44" {
		t.Errorf("leaf of %s", said.Leaf.Algorithm)
	}
	found := trellis.Count(said.Inbound, func(c *trellis.Connections) bool {
		return c.Class == "pq" && c.ServerSignature() == "ML-DSA-44" && c.ClientSignature() == mldsa65
	})
	if found != 2 {
		t.Errorf("%d such connections in %+v", found, said.Inbound)
	}
}

// lonely makes a meshed pod that serves orders, with annotations, in a namespace of its own.
func lonely(t *testing.T, name string, annotations map[string]string) *kube.Pod {
	t.Helper()
	namespace(t, name, map[string]string{bed.Inject: "enabled"})
	apply(t, manifest(t, podOf(name, func(metadata, spec map[string]any) {
		metadata["annotations"] = annotations
		container := spec["containers"].([]any)[0].(map[string]any)
		delete(container, "args")
		container["command"] = []string{"/usr/bin/orders"}
		container["readinessProbe"] = map[string]any{"tcpSocket": map[string]any{"port": 7000}, "periodSeconds": 1}
	})))
	return ready(t, name, "case")
}

// Probes of the kubelet pass, and do not spoil the figures.
func TestProbesAreCountedApart(t *testing.T) {
	rows := evidence(t, pod(t, "shop", "orders")).Inbound
	probes := trellis.Count(rows, func(c *trellis.Connections) bool { return c.Why() == "kubelet_probe" })
	if probes == 0 {
		t.Errorf("no probe was recognised in %+v", rows)
	}
}
