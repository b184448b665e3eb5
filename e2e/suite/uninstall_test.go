package suite

// The installation changes under traffic, goes back, and at last goes away. These tests stand at the end of
// the suite: after them there is no mesh.

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
)

type webhooks struct {
	Webhooks []struct {
		Name         string
		ClientConfig struct{ CABundle []byte }
	}
}

func caBundle(t *testing.T) string {
	t.Helper()
	var found webhooks
	if err := cluster.Get(t.Context(), &found, "mutatingwebhookconfiguration", "trellis-injector"); err != nil {
		t.Fatal(err)
	}
	if len(found.Webhooks) == 0 || len(found.Webhooks[0].ClientConfig.CABundle) == 0 {
		t.Fatalf("no caBundle in %+v", found)
	}
	return string(found.Webhooks[0].ClientConfig.CABundle)
}

// T-38: an upgrade with other values and its rollback, while traffic flows and pods are created.
func TestUpgradeAndRollbackUnderTraffic(t *testing.T) {
	client := pod(t, "shop", "client")
	bundle := caBundle(t)
	var history []struct{ Revision int }
	text, err := mesh.HelmRun(t.Context(), "history", bed.Release, "-n", bed.System, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(text), &history); err != nil {
		t.Fatal(err)
	}
	before := history[len(history)-1].Revision

	load := underLoad(t, client, []string{"--workers=2", "--fresh", "http://web/healthz", "tcp://orders:7000"}, func() {
		if _, err := mesh.HelmRun(t.Context(), "upgrade", bed.Release, mesh.Chart(), "-n", bed.System, "--reuse-values",
			"--set", "log.level=debug", "--set", "proxy.logLevel=debug", "--wait", "--timeout", "3m"); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := admit(t, podOf("shop", nil)); err != nil {
			t.Errorf("after the upgrade: %v", err)
		}
		if _, err := mesh.HelmRun(t.Context(), "rollback", bed.Release, fmt.Sprint(before), "-n", bed.System, "--wait", "--timeout", "3m"); err != nil {
			t.Fatal(err)
		}
	})
	if load.Failed != 0 {
		t.Errorf("%d of %d requests failed: %v", load.Failed, load.Sent, load.Errors)
	}
	if caBundle(t) != bundle {
		t.Error("the webhook's trust changed with the upgrade")
	}
	admitted, _, _, err := admit(t, podOf("shop", nil))
	if err != nil || admitted.Init(proxyName) == nil {
		t.Errorf("after the rollback: %v", err)
	}
	rotate(t, pod(t, "shop", "orders"), "orders")
}

// Uninstalling is refused while injected pods would lose their ground, and leaves nothing once they are gone.
func TestUninstallLeavesNothingBehind(t *testing.T) {
	_, stderr, err := mesh.Trellis(t.Context(), "uninstall", "--yes")
	if err == nil || !strings.Contains(stderr, "shop") {
		t.Fatalf("uninstalled under running workloads, or without naming them: %v\n%s", err, stderr)
	}
	if _, err := cluster.Run(t.Context(), "delete", "namespace", "-l", "trellis.dev/e2e=suite,"+bed.Inject, "--wait", "--timeout=120s"); err != nil {
		t.Fatal(err)
	}
	// A labelled namespace that stays, with only the trust bundle in it.
	namespace(t, "e2e-stays", map[string]string{bed.Inject: "enabled"})
	eventually(t, "trust", func() error {
		return cluster.Get(t.Context(), &kube.ConfigMap{}, "configmap", "-n", "e2e-stays", trustMap)
	})
	uninstall(t)

	kinds, err := cluster.Run(t.Context(), "api-resources", "--verbs=list", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	var wanted []string
	for _, kind := range strings.Fields(kinds) {
		// Events outlive what they tell of, and end by themselves.
		if !strings.HasPrefix(kind, "events") {
			wanted = append(wanted, kind)
		}
	}
	eventually(t, "nothing left", func() error {
		text, err := cluster.Run(t.Context(), "get", strings.Join(wanted, ","), "-A", "-o", "name", "--ignore-not-found", "--show-kind")
		if err != nil {
			return err
		}
		var left []string
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			// The namespace was made by the suite itself, before the installation.
			if strings.Contains(line, "trellis") && line != "namespace/"+bed.System {
				left = append(left, line)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("left behind: %s", strings.Join(left, ", "))
		}
		return nil
	})
	// And nothing of it stands in anybody's way.
	admitted, _, _, err := admit(t, podOf("e2e-stays", nil))
	if err != nil || admitted.Init(proxyName) != nil {
		t.Errorf("a pod after the end: %v", err)
	}
}

// uninstall runs the command, and once more where Helm 4.3 gave up early: its wait for deletion ends when
// all objects that it has seen so far are gone, and then complains of one that it sees only now.
func uninstall(t *testing.T) {
	t.Helper()
	eventually(t, "uninstallation", func() error {
		_, stderr, err := mesh.Trellis(t.Context(), "uninstall", "--yes")
		if err != nil && !strings.Contains(stderr, "still exists") {
			t.Fatalf("%v\n%s", err, stderr)
		}
		return err
	})
}
