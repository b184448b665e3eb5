package suite

// Anchors change while traffic flows: refused where it would cut somebody off, from ECDSA to ML-DSA and on,
// with the leader killed on the way.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
	trellis "trellis.dev/e2e/suite/mesh"
)

// trustStatus is what `trellis trust status --json` prints, as far as it is looked at.
type trustStatus struct {
	Phase    string
	Issuing  string
	Members  int
	Anchors  []struct{ Fingerprint, Algorithm, Key string }
	Rotation *struct {
		Number     int
		Phase      string
		Waiting    int
		WaitingFor []struct{ Pod, Why string }
	}
	Past []struct {
		Number   int
		From, To string
		Phases   []struct {
			Phase   string
			Seconds int
		}
		CutOff []string
	}
	Conditions []struct{ Type, Status, Reason, Message string }
}

func (s trustStatus) settled() string {
	for _, condition := range s.Conditions {
		if condition.Type == "Settled" {
			return condition.Reason + ": " + condition.Message
		}
	}
	return ""
}

func trust(t *testing.T) trustStatus {
	t.Helper()
	status, err := lookAtTrust(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func lookAtTrust(ctx context.Context) (status trustStatus, err error) {
	out, stderr, err := mesh.Trellis(ctx, "trust", "status", "--json")
	if err != nil {
		return status, fmt.Errorf("%w\n%s", err, stderr)
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return status, fmt.Errorf("%w in %s", err, out)
	}
	return status, nil
}

func trustDo(t *testing.T, args ...string) string {
	t.Helper()
	out, stderr, err := mesh.Trellis(t.Context(), append([]string{"trust"}, args...)...)
	if err != nil {
		t.Fatalf("trellis trust %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr)
	}
	return out
}

// leader is the pod of the CA that takes the steps.
func leader(t *testing.T) string {
	t.Helper()
	name, err := cluster.Run(t.Context(), "get", "lease", "-n", bed.System, "trellis-ca", "-o", "jsonpath={.spec.holderIdentity}")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(name)
}

// Every pod that holds an identity is a member: those of the shop and of other tests, discovery, the CA.
func membersAre(t *testing.T) {
	t.Helper()
	eventually(t, "all pods of the shop are members", func() error {
		status := trust(t)
		if want := len(pods(t, "shop", "app")) + 4; status.Members < want {
			return fmt.Errorf("%d of %d: %s", status.Members, want, status.settled())
		}
		return nil
	})
}

func classes(t *testing.T, pod *kube.Pod) map[string]float64 {
	t.Helper()
	found := map[string]float64{}
	for _, sample := range metrics(t, pod.Metadata.Namespace, pod.Metadata.Name) {
		if sample.Name == "trellis_connections_total" {
			found[sample.Labels["class"]] += sample.Value
		}
	}
	return found
}

func ended(t *testing.T, pod *kube.Pod, reason string) float64 {
	t.Helper()
	return trellis.Sum(metrics(t, pod.Metadata.Namespace, pod.Metadata.Name), "trellis_tunnels_ended_total", map[string]string{"reason": reason})
}

// A rotation that proxies would not follow is refused with their names, and can be taken back.
func TestRotationThatWouldCutOffIsRefused(t *testing.T) {
	membersAre(t)
	trustDo(t, "rotate", "--to", "ecdsa-p256")
	eventually(t, "the refusal", func() error {
		if said := trust(t).settled(); !strings.HasPrefix(said, "WouldCutOff") || !strings.Contains(said, "post-quantum") {
			return fmt.Errorf("%s", said)
		}
		return nil
	})
	if out, _, err := mesh.Trellis(t.Context(), "trust", "force"); err == nil || !strings.Contains(out, "WouldCutOff") && !strings.Contains(out, "policy") {
		t.Errorf("forced without being told to: %v\n%s", err, out)
	}
	trustDo(t, "rollback")
	eventually(t, "settled", func() error {
		if said := trust(t).settled(); !strings.HasPrefix(said, "AsWished") {
			return fmt.Errorf("%s", said)
		}
		return nil
	})
	ask(t, pod(t, "shop", "client"), "--count=10", "--fresh", "http://web/healthz")
}

// mldsaOnly is what the chart lets workloads have unless told otherwise.
const mldsaOnly = "ml-dsa-65,ml-dsa-44,ml-dsa-87"

// tolerate sets what new pods accept of their peers, and what certificates the CA issues.
func tolerate(ctx context.Context, signatures, algorithms string) error {
	_, err := mesh.HelmRun(ctx, "upgrade", bed.Release, mesh.Chart(), "-n", bed.System, "--reuse-values",
		"--set", "proxy.signatures="+signatures, "--set", "ca.leafAlgorithms={"+algorithms+"}", "--wait", "--timeout", "3m")
	return err
}

// T-16, T-21, T-30, Q-37, Z-25: the mesh goes to ECDSA, from there to ML-DSA-65 and on to ML-DSA-87, under
// load, with the leader killed in the middle; no request fails, and connections that rest on a removed
// anchor are drained.
func TestMigrationUnderLoad(t *testing.T) {
	upgrade := func(signatures, algorithms string) {
		t.Helper()
		if err := tolerate(t.Context(), signatures, algorithms); err != nil {
			t.Fatal(err)
		}
		for _, app := range []string{"web", "catalog", "orders", "client"} {
			if _, err := cluster.Run(t.Context(), "rollout", "restart", "-n", "shop", "deployment/"+app); err != nil {
				t.Fatal(err)
			}
		}
		for _, app := range []string{"web", "catalog", "orders", "client"} {
			if err := rolledOut(t.Context(), "shop", app); err != nil {
				t.Fatal(err)
			}
		}
	}
	upgrade("prefer", mldsaOnly+",ecdsa-p256")
	membersAre(t)
	t.Log(trustDo(t, "rotate", "--to", "ecdsa-p256", "--leaf", "ecdsa-p256", "--wait", "--timeout", "120"))
	client, server := pod(t, "shop", "client"), pod(t, "shop", "orders")
	if leaf := evidence(t, server).Leaf; leaf.Algorithm != "ECDSA-P256" {
		t.Fatalf("the server holds %+v", leaf)
	}
	ask(t, client, "--count=20", "--fresh", "tcp://orders:7000")
	if before := classes(t, server); before["hybrid"] == 0 {
		t.Fatalf("no hybrid connection with classical signatures: %v", before)
	}

	var took []string
	kept := underLoad(t, client, []string{"--workers=1", "tcp://orders:7000"}, func() {
		fresh := underLoad(t, client, []string{"--workers=5", "--fresh", "http://web/healthz", "tcp://orders:7000"}, func() {
			trustDo(t, "rotate", "--to", "ml-dsa-65")
			eventually(t, "the rotation", func() error {
				if status := trust(t); status.Rotation == nil && len(status.Past) < 2 {
					return fmt.Errorf("%s", status.settled())
				}
				return nil
			})
			first := leader(t)
			if _, err := cluster.Run(t.Context(), "delete", "pod", "-n", bed.System, first, "--grace-period=0", "--force"); err != nil {
				t.Fatal(err)
			}
			settle(t, "ml-dsa-65")
			if second := leader(t); second == first {
				t.Errorf("%s still leads", second)
			}
			t.Log(trustDo(t, "rotate", "--to", "ml-dsa-87", "--wait", "--timeout", "120"))
			ask(t, client, "--count=50", "--fresh", "tcp://orders:7000")
		})
		if fresh.Failed != 0 {
			t.Errorf("%d of %d requests failed: %v", fresh.Failed, fresh.Sent, fresh.Errors)
			for _, row := range evidence(t, client).Outbound {
				t.Logf("%d of class %s: %s", row.Count, row.Class, row.Why())
			}
		}
		t.Logf("%d requests, %d failed, p50 %.1f ms, p99 %.1f ms", fresh.Sent, fresh.Failed, fresh.P50, fresh.P99)
	})
	status := trust(t)
	for _, past := range status.Past[:2] {
		took = append(took, fmt.Sprintf("%s to %s: %v", past.From, past.To, past.Phases))
		if len(past.CutOff) > 0 {
			t.Errorf("cut off: %v", past.CutOff)
		}
	}
	t.Log(strings.Join(took, "\n"))
	if len(status.Anchors) != 1 || status.Anchors[0].Algorithm != "ml-dsa-87" {
		t.Errorf("anchors %+v", status.Anchors)
	}
	if leaf := evidence(t, server).Leaf; leaf.Algorithm != mldsa65 {
		t.Errorf("the server holds %+v", leaf)
	}
	if after := classes(t, server); after["pq"] == 0 {
		t.Errorf("no post-quantum connection after the migration: %v", after)
	}
	// A connection that never rests between a question and its answer is ended in good order, or at the
	// end of its time.
	if kept.Failed > kept.Closed || kept.Closed == 0 {
		t.Errorf("kept connections: %+v", kept)
	}
	upgrade("require", mldsaOnly)
	membersAre(t)
	ask(t, pod(t, "shop", "client"), "--count=20", "--fresh", "tcp://orders:7000")
}

// settle waits for the end of the rotation to an algorithm, also while the API server fails now and then.
func settle(t *testing.T, algorithm string) {
	t.Helper()
	deadline := time.Now().Add(2 * patience)
	for {
		status, err := lookAtTrust(t.Context())
		if err == nil && status.Rotation == nil && strings.HasPrefix(status.Issuing, algorithm) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not settled on %s: %+v %v", algorithm, status, err)
		}
		time.Sleep(glance)
	}
}

// Z-20: who is denied is turned away everywhere within seconds, with the connections that are open.
func TestDenialClosesLiveTunnels(t *testing.T) {
	client, server := pod(t, "shop", "client"), pod(t, "shop", "orders")
	membersAre(t)
	held := evidence(t, client).Leaf.Serial
	cut := underLoad(t, client, []string{"--workers=1", "tcp://orders:7000"}, func() {
		trustDo(t, "deny", "serial="+held, "--reason", "a test")
		t.Cleanup(func() {
			if t.Failed() {
				_, _, _ = mesh.Trellis(t.Context(), "trust", "allow", "serial="+held)
			}
		})
		eventually(t, "a tunnel that was ended", func() error {
			if ended(t, server, "denied") == 0 {
				return fmt.Errorf("none")
			}
			return nil
		})
	})
	if cut.Failed == 0 {
		t.Error("the denied client noticed nothing")
	}
	if picture := trustDo(t, "status"); !strings.Contains(picture, "denied: serial="+held+" (a test)") {
		t.Errorf("the picture does not show the denial:\n%s", picture)
	}
	trustDo(t, "allow", "serial="+held)
	eventually(t, "the client is let in again", func() error {
		_, err := cluster.Exec(t.Context(), "shop", client.Metadata.Name, "client", "/usr/bin/load", "run", "--count=1", "--fresh", "tcp://orders:7000")
		return err
	})
}

// followed returns the line of a certificate that was issued, and that a later line of the same chain follows.
func followed(trail string) int {
	issued := map[string]int{}
	for at, line := range strings.Split(trail, "\n") {
		var record struct{ Audit, Chain, Event string }
		if json.Unmarshal([]byte(line), &record) != nil || record.Audit == "" {
			continue
		}
		if before, known := issued[record.Chain]; known {
			return before
		}
		if record.Event == "issued" {
			issued[record.Chain] = at
		}
	}
	return -1
}

// The trail of all that happened so far is what the replicas wrote; a line less is found.
func TestAuditTrailIsWhole(t *testing.T) {
	var whole, key string
	var issued int
	// What is cut off at the end, before it was signed, does not show: a record is removed that others follow.
	eventually(t, "a certificate in the trail, and more of its chain behind it", func() error {
		whole, key = trail(t)
		if issued = followed(whole); issued < 0 {
			rotate(t, pod(t, "shop", "orders"), "orders")
			return errors.New("none yet")
		}
		return nil
	})
	out, err := verify(t, whole, key)
	if err != nil || !strings.HasPrefix(out, "good: ") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(strings.TrimSpace(out))
	lines := strings.SplitAfter(whole, "\n")
	out, err = verify(t, strings.Join(slices.Delete(lines, issued, issued+1), ""), key)
	if err == nil || !strings.Contains(out, "missing") {
		t.Errorf("a record was removed, and: %v\n%s", err, out)
	}
}

// Where the cluster has ClusterTrustBundles, the mesh's is one of them, with the anchors of the moment.
func TestClusterTrustBundle(t *testing.T) {
	kinds, err := cluster.Run(t.Context(), "api-resources", "--api-group=certificates.k8s.io", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(kinds, "clustertrustbundles") {
		t.Skip("this cluster has no ClusterTrustBundles")
	}
	var published struct {
		Spec struct{ SignerName, TrustBundle string }
	}
	var trust kube.ConfigMap
	eventually(t, "the bundle", func() error {
		if err := cluster.Get(t.Context(), &published, "clustertrustbundle", "trellis.dev:mesh:bundle"); err != nil {
			return err
		}
		if err := cluster.Get(t.Context(), &trust, "configmap", "-n", "shop", trustMap); err != nil {
			return err
		}
		if !strings.HasSuffix(trust.Data["bundle.pem"], published.Spec.TrustBundle) {
			return fmt.Errorf("other anchors than in the namespace:\n%s", published.Spec.TrustBundle)
		}
		return nil
	})
	if published.Spec.SignerName != "trellis.dev/mesh" || !strings.HasPrefix(published.Spec.TrustBundle, "-----BEGIN CERTIFICATE-----") {
		t.Errorf("%+v", published)
	}
}
