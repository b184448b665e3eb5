package suite

// The CA's audit trail, as an operator takes it from the replicas' logs.

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
)

// replicas of the CA.
func replicas(t *testing.T) []kube.Pod {
	t.Helper()
	return pods(t, bed.System, "app.kubernetes.io/component=ca")
}

// trail is what all replicas that run have written, and the key by which it is judged.
func trail(t *testing.T) (text, key string) {
	t.Helper()
	var whole strings.Builder
	for _, replica := range replicas(t) {
		log, err := cluster.Run(t.Context(), "logs", "-n", bed.System, replica.Metadata.Name)
		if err != nil {
			t.Fatal(err)
		}
		whole.WriteString(log)
		if key, err = cluster.Proxied(t.Context(), bed.System, replica.Metadata.Name, metricsPort, "/audit-key"); err != nil {
			t.Fatal(err)
		}
	}
	return whole.String(), key
}

// verify returns what the product says to a trail.
func verify(t *testing.T, text, key string) (string, error) {
	t.Helper()
	folder := t.TempDir()
	files := map[string]string{"key.pem": key, "trail": text}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, stderr, err := mesh.Trellis(t.Context(), "audit", "verify", "--key", filepath.Join(folder, "key.pem"), filepath.Join(folder, "trail"))
	return out + stderr, err
}

// record of the trail, as far as it is looked at.
type record struct {
	Time, Event string
	// Of a certificate.
	Identity, Anchor, Namespace, PodUID string
	// Of a change of trust.
	Step, Phase, Issuing string
	Anchors              []string
}

// verified is the records of a trail that the product calls good.
func verified(t *testing.T) []record {
	t.Helper()
	text, key := trail(t)
	out, err := verify(t, text, key)
	if err != nil || !strings.HasPrefix(out, "good: ") {
		t.Fatalf("%v\n%s", err, out)
	}
	var records []record
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, `{"audit":`) {
			continue
		}
		var one record
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		records = append(records, one)
	}
	return records
}

// issuedInOrder fails if a certificate names another than who asked, or came from an anchor after this one
// was trusted no more.
func issuedInOrder(t *testing.T, records []record, old, fresh string) {
	t.Helper()
	var all kube.List[kube.Pod]
	if err := cluster.Get(t.Context(), &all, "pods", "-A"); err != nil {
		t.Fatal(err)
	}
	accounts := map[string]string{}
	for _, pod := range all.Items {
		accounts[pod.Metadata.UID] = identity(pod.Metadata.Namespace, pod.Spec.ServiceAccountName)
	}
	removed, issued := "", map[string]int{}
	for _, one := range records {
		if one.Event == "trust" && one.Issuing == fresh && len(one.Anchors) == 1 && (removed == "" || one.Time < removed) {
			removed = one.Time
		}
	}
	if removed == "" {
		t.Error("no record of the removal of the old anchor")
	}
	for _, one := range records {
		if one.Event != "issued" {
			continue
		}
		issued[one.Anchor]++
		// Of pods that are gone, what account they had is not known any more.
		if own, known := accounts[one.PodUID]; known && one.Identity != own {
			t.Errorf("%s got a certificate for %s", own, one.Identity)
		}
		if one.Anchor == old && one.Time > removed {
			t.Errorf("%s got a certificate of the old anchor at %s, which was removed at %s", one.Identity, one.Time, removed)
		}
	}
	if issued[fresh] == 0 {
		t.Errorf("the trail has no certificate of the new anchor: %v", issued)
	}
}
