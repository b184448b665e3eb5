package suite

// What an application may reach outside of the mesh, and what it may not.

import (
	"fmt"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	trellis "trellis.dev/e2e/suite/mesh"
)

// A pod that may reach one address and port outside reaches that, and all of the mesh; everything else is cut off
// and counted. Of a node nobody knows which of its programs listens there, so it is outside.
func TestOnlyWhatIsAllowedOutsideIsReached(t *testing.T) {
	const allowed, shut = 18081, 18082
	namespace(t, "e2e-beyond", nil)
	apply(t, manifest(t, podOf("e2e-beyond", func(_, spec map[string]any) {
		spec["hostNetwork"] = true
		spec["nodeName"] = mesh.Nodes[1]
		serve := func(port int) map[string]any {
			return map[string]any{
				"name": fmt.Sprintf("web-%d", port), "image": "trellis.dev/e2e/go:1", "command": []string{"/usr/bin/web"},
				"env":             []any{map[string]any{"name": "LISTEN", "value": fmt.Sprintf(":%d", port)}},
				"readinessProbe":  map[string]any{"httpGet": map[string]any{"path": "/healthz", "port": port}, "periodSeconds": 1},
				"securityContext": map[string]any{"allowPrivilegeEscalation": false, "capabilities": map[string]any{"drop": []string{"ALL"}}},
			}
		}
		spec["containers"] = []any{serve(allowed), serve(shut)}
	})))
	beyond := ready(t, "e2e-beyond", "case").Status.PodIP

	namespace(t, "e2e-egress", map[string]string{bed.Inject: "enabled"})
	apply(t, manifest(t, podOf("e2e-egress", annotated("trellis.dev/egress", hostPort(beyond, allowed)))))
	careful := ready(t, "e2e-egress", "case")
	ask(t, careful, "--count=3", "--fresh", "http://"+hostPort(beyond, allowed)+"/echo/out")
	ask(t, careful, "--count=3", "--fresh", "http://web.shop/echo/in", "tcp://orders.shop:7000")

	text, stderr, err := cluster.Try(t.Context(), "", "exec", "-n", "e2e-egress", "case", "-c", "client", "--",
		"/usr/bin/load", "fetch", "http://"+hostPort(beyond, shut)+"/echo/out")
	if err == nil || strings.Contains(text, "out") {
		t.Errorf("what is not allowed answered %q, %s", text, stderr)
	}
	counts(t, 1, func() int64 {
		return min(1, trellis.Count(evidence(t, careful).Outbound, func(c *trellis.Connections) bool {
			return c.Why() == "refused_egress_denied"
		}))
	})
	// Who was not told to be careful reaches both.
	free := pod(t, "shop", "client")
	ask(t, free, "--count=2", "--fresh", "http://"+hostPort(beyond, allowed)+"/echo/out", "http://"+hostPort(beyond, shut)+"/echo/out")
}
