package suite

// The Secret that everything rests on is lost, and comes back from one sealed file.

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
)

// Proxies keep their identities and go on talking; afterwards they renew at the same anchor.
func TestLostTrustDomainIsRestored(t *testing.T) {
	membersAre(t)
	folder := t.TempDir()
	key, file := filepath.Join(folder, "key"), filepath.Join(folder, "backup")
	trustDo(t, "backup-key", "--out", key)
	trustDo(t, "backup", "--to", key+".pub", "--out", file)
	before := trust(t)
	anchor := before.Anchors[0].Fingerprint
	client, server := pod(t, "shop", "client"), pod(t, "shop", "orders")
	held := evidence(t, server).Leaf.Serial

	load := underLoad(t, client, []string{"--workers=2", "--fresh", "tcp://orders:7000"}, func() {
		scale(t, "trellis-ca", 0)
		t.Cleanup(func() {
			if t.Failed() {
				_, _ = cluster.Run(context.Background(), "scale", "-n", bed.System, "deployment/trellis-ca", "--replicas=2")
			}
		})
		if _, err := cluster.Run(t.Context(), "delete", "secret", "-n", bed.System, rootSecret); err != nil {
			t.Fatal(err)
		}
		out, _, err := mesh.Trellis(t.Context(), "trust", "restore", file, "--key", key)
		if err == nil || !strings.Contains(out, anchor) {
			t.Errorf("restored without being told which anchor: %v\n%s", err, out)
		}
		trustDo(t, "restore", file, "--key", key, "--anchor", anchor)
		scale(t, "trellis-ca", 2)
	})
	if load.Failed != 0 {
		t.Errorf("%d of %d requests failed: %v", load.Failed, load.Sent, load.Errors)
	}
	if now := evidence(t, server).Leaf.Serial; now != held {
		t.Errorf("the server's certificate was replaced: %s, then %s", held, now)
	}
	membersAre(t)
	after := trust(t)
	if len(after.Anchors) != 1 || after.Anchors[0].Fingerprint != anchor {
		t.Errorf("anchors before %+v and after %+v", before.Anchors, after.Anchors)
	}
	rotate(t, server, "orders")
	ask(t, client, "--count=10", "--fresh", "tcp://orders:7000")
	// Once more changes nothing.
	out, stderr, err := mesh.Trellis(t.Context(), "trust", "restore", file, "--key", key, "--anchor", anchor)
	if err != nil || !strings.Contains(out, "nothing was done") {
		t.Errorf("%v\n%s%s", err, out, stderr)
	}
}
