package suite

// Programs that know no ML-DSA: peers of other makes, and applications that do their own TLS with other
// people's client of the SPIFFE Workload API.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
	trellis "trellis.dev/e2e/suite/mesh"
)

const (
	ecdsaP256    = "ECDSA-P256"
	cannotVerify = "peer_cannot_verify_ml_dsa"
)

// The mesh gets a companion anchor for them and loses it again, and nobody else notices.
func TestProgramsThatKnowNoMLDSA(t *testing.T) {
	needPodCertificates(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		if t.Failed() {
			_, _, _ = mesh.Trellis(ctx, "trust", "companion", "--to", "none", "--wait", "--timeout", "60")
		}
		if err := tolerate(ctx, "require", mldsaOnly); err != nil {
			t.Error(err)
		}
	})
	if err := tolerate(t.Context(), "prefer", mldsaOnly+",ecdsa-p256"); err != nil {
		t.Fatal(err)
	}
	client := pod(t, "shop", "client")
	load := underLoad(t, client, []string{"--workers=2", "--fresh", "http://web/healthz", "tcp://orders:7000"}, func() {
		membersAre(t)
		t.Log(trustDo(t, "companion", "--to", "ecdsa-p256", "--wait", "--timeout", "120"))
		t.Run("all", func(t *testing.T) {
			t.Run("peer", peerIsServed)
			t.Run("application", applicationIsGivenAnIdentity)
		})
		t.Log(trustDo(t, "companion", "--to", "none", "--wait", "--timeout", "120"))
	})
	if load.Failed != 0 {
		t.Errorf("%d of %d requests failed: %v", load.Failed, load.Sent, load.Errors)
	}
	t.Logf("%d requests, %d failed", load.Sent, load.Failed)
	if after := trust(t); len(after.Anchors) != 1 {
		t.Errorf("anchors %+v", after.Anchors)
	}
}

// A client of nothing but Go's TLS is served by a workload with a dual identity, and counted under its name
// with the reason. A workload with one identity refuses it, and who knows ML-DSA is shown nothing else.
func peerIsServed(t *testing.T) {
	t.Parallel()
	const name = "e2e-foreign"
	dual := lonely(t, "e2e-dual", map[string]string{"trellis.dev/dual-identity": "enabled"})
	single := lonely(t, "e2e-single", map[string]string{"trellis.dev/dual-identity": "disabled"})
	namespace(t, name, nil)
	apply(t, manifest(t, idlePod(name, "asker", issued("ECDSAP256"))))
	ready(t, name, "asker")
	eventually(t, "a second certificate", func() error {
		if held := evidence(t, dual); held.Leaf == nil || held.Companion == nil || held.Leaf.Algorithm != mldsa65 || held.Companion.Algorithm != ecdsaP256 {
			return fmt.Errorf("%+v and %+v", held.Leaf, held.Companion)
		}
		return nil
	})
	if held := evidence(t, single); held.Companion != nil {
		t.Errorf("a workload without a dual identity holds %+v", held.Companion)
	}
	call := func(server *kube.Pod) (string, error) {
		return cluster.Exec(t.Context(), name, "asker", "app", "/usr/bin/foreign",
			"-address", hostPort(server.Status.PodIP, tunnelPort), "-server", identity(server.Metadata.Namespace, "default"),
			"-credentials", "/identity/credentials.pem", "-bundle", "/identity/bundle.pem",
			"-through", hostPort(server.Status.PodIP, 7000))
	}
	said, err := call(dual)
	if err != nil {
		t.Fatal(err)
	}
	if want := "TLS 1.3 " + postQuantum + " ECDSA\n220 orders on case\n"; said != want {
		t.Errorf("the client says %q, want %q", said, want)
	}
	ask(t, pod(t, "shop", "client"), "--count=3", "--fresh", "tcp://"+hostPort(dual.Status.PodIP, 7000))
	rows := evidence(t, dual).Inbound
	if counted := trellis.Count(rows, func(c *trellis.Connections) bool {
		return c.Source == identity(name, "default") && c.Class == "hybrid" && c.Why() == cannotVerify &&
			c.GroupName() == postQuantum && c.ClientSignature() == ecdsaP256 && c.ServerSignature() == ecdsaP256
	}); counted != 1 {
		t.Errorf("the peer was counted %d times in %+v", counted, rows)
	}
	if counted := trellis.Count(rows, func(c *trellis.Connections) bool {
		return c.Source == identity("shop", "client") && c.Class == "pq" && c.Why() == "" && c.ServerSignature() == mldsa65
	}); counted != 3 {
		t.Errorf("who knows ML-DSA was counted %d times in %+v", counted, rows)
	}

	if said, err := call(single); err == nil {
		t.Errorf("a workload with one identity let it in: %s", said)
	}
	refused := map[string]string{"direction": "inbound", "result": "refused", "reason": "no_common_signature"}
	if counted := trellis.Sum(metrics(t, "e2e-single", single.Metadata.Name), "trellis_handshakes_total", refused); counted != 1 {
		t.Errorf("%v handshakes were refused for that, want 1", counted)
	}
}

// update is a line of what the application says that it was given.
type update struct {
	Event, ID, Serial, Key, Error string
	Anchors                       int
}

// updates are all until now.
func updates(t *testing.T, pod *kube.Pod) []update {
	t.Helper()
	log, err := cluster.Run(t.Context(), "logs", "-n", pod.Metadata.Namespace, pod.Metadata.Name, "-c", "client")
	if err != nil {
		t.Fatal(err)
	}
	var all []update
	for line := range strings.Lines(log) {
		var one update
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if one.Event != "update" {
			t.Fatalf("the application was given something else: %s", line)
		}
		all = append(all, one)
	}
	return all
}

// An application with go-spiffe finds the socket by itself, is given the identity of its pod's account with a
// key of its own, and hears on its stream of a rotation, which waits for it.
func applicationIsGivenAnIdentity(t *testing.T) {
	t.Parallel()
	const name, account = "e2e-application", "payments"
	namespace(t, name, map[string]string{bed.Inject: "enabled"})
	apply(t, manifest(t, map[string]any{
		"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": account, "namespace": name},
	}))
	apply(t, manifest(t, podOf(name, func(metadata, spec map[string]any) {
		metadata["annotations"] = map[string]string{"trellis.dev/workload-api": "ecdsa-p256"}
		spec["serviceAccountName"] = account
		container := spec["containers"].([]any)[0].(map[string]any)
		container["command"], container["args"] = []string{"/usr/bin/peer"}, []string{"watch"}
	})))
	application := ready(t, name, "case")
	var first update
	eventually(t, "an identity", func() error {
		all := updates(t, application)
		if len(all) == 0 {
			return errors.New("it was given nothing")
		}
		first = all[0]
		return nil
	})
	if first.ID != identity(name, account) || first.Key != "ECDSA" || first.Anchors == 0 {
		t.Errorf("it was given %+v", first)
	}
	if own := evidence(t, application).Leaf; own.Identity != first.ID || strings.TrimLeft(own.Serial, "0") == first.Serial || own.Algorithm != mldsa65 {
		t.Errorf("the proxy holds %+v, and the application %+v", own, first)
	}

	t.Log(trustDo(t, "rotate", "--wait", "--timeout", "120"))
	eventually(t, "a certificate of the new anchor", func() error {
		all := updates(t, application)
		both := slices.ContainsFunc(all, func(one update) bool { return one.Anchors == first.Anchors+1 })
		if last := all[len(all)-1]; !both || last.Anchors != first.Anchors || last.Serial == first.Serial || last.ID != first.ID {
			return fmt.Errorf("it was given %+v", all)
		}
		return nil
	})
}
