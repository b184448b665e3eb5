package suite

// The installation changes under traffic, goes back, and at last goes away. These tests stand at the end of
// the suite: after them there is no mesh.

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
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

// T-38: the control plane goes to another version with other values, and back, while traffic flows,
// certificates are renewed and pods are created. What one version wrote the other one reads.
func TestUpgradeAndRollbackUnderTraffic(t *testing.T) {
	if !mesh.Loads() {
		t.Skip("images of another version cannot be brought into this cluster: TRELLIS_E2E_LOAD is not set")
	}
	const version = "0.99.0"
	chart, err := mesh.NextRelease(t.Context(), t.TempDir(), version)
	if err != nil {
		t.Fatal(err)
	}
	membersAre(t)
	nobody := "identity=" + identity("nowhere", "nobody")
	trustDo(t, "deny", nobody, "--reason", "before the upgrade")
	client, server := pod(t, "shop", "client"), pod(t, "shop", "orders")
	bundle, before := caBundle(t), trust(t)
	revision := lastRevision(t)
	// same fails unless the control plane runs a version, on what was written before.
	same := func(version string) {
		t.Helper()
		for _, pod := range pods(t, bed.System, "app.kubernetes.io/name=trellis") {
			if image := pod.Spec.Containers[0].Image; !strings.HasSuffix(image, ":"+version) {
				t.Errorf("%s runs %s", pod.Metadata.Name, image)
			}
		}
		if caBundle(t) != bundle {
			t.Error("the webhook's trust changed")
		}
		membersAre(t)
		after := trust(t)
		if !slices.Equal(after.Anchors, before.Anchors) || after.Issuing != before.Issuing || !reflect.DeepEqual(after.Past, before.Past) {
			t.Errorf("trust was %+v and is %+v", before, after)
		}
		if picture := trustDo(t, "status"); !strings.Contains(picture, "denied: "+nobody+" (before the upgrade)") {
			t.Errorf("the denial is forgotten:\n%s", picture)
		}
	}

	load := underLoad(t, client, []string{"--workers=2", "--fresh", "http://web/healthz", "tcp://orders:7000"}, func() {
		renewedMeanwhile(t, server, func() error {
			_, err := mesh.HelmRun(t.Context(), "upgrade", bed.Release, chart, "-n", bed.System, "--reuse-values",
				"--set", "log.level=debug", "--set", "proxy.logLevel=debug", "--wait", "--timeout", "3m")
			return err
		})
		same(version)
		// Proxies of both versions talk to each other.
		if _, err := cluster.Run(t.Context(), "rollout", "restart", "-n", "shop", "deployment/web"); err != nil {
			t.Fatal(err)
		}
		if err := rolledOut(t.Context(), "shop", "web"); err != nil {
			t.Fatal(err)
		}
		if image := pod(t, "shop", "web").Init(proxyName).Image; !strings.HasSuffix(image, ":"+version) {
			t.Errorf("a new pod has the proxy %s", image)
		}
		renewedMeanwhile(t, server, func() error {
			_, err := mesh.HelmRun(t.Context(), "rollback", bed.Release, fmt.Sprint(revision), "-n", bed.System, "--wait", "--timeout", "3m")
			return err
		})
		same(mesh.Version)
	})
	if load.Failed != 0 {
		t.Errorf("%d of %d requests failed: %v", load.Failed, load.Sent, load.Errors)
	}
	t.Logf("%d requests, %d failed", load.Sent, load.Failed)
	trustDo(t, "allow", nobody)
	admitted, _, _, err := admit(t, podOf("shop", nil))
	if err != nil || admitted.Init(proxyName) == nil {
		t.Errorf("after the rollback: %v", err)
	}
}

// lastRevision of the release.
func lastRevision(t *testing.T) int {
	t.Helper()
	text, err := mesh.HelmRun(t.Context(), "history", bed.Release, "-n", bed.System, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var history []struct{ Revision int }
	if err := json.Unmarshal([]byte(text), &history); err != nil {
		t.Fatal(err)
	}
	return history[len(history)-1].Revision
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

	eventually(t, "nothing left", func() error {
		// Kinds whose definitions are on their way out are still listed for a while.
		kinds, err := cluster.Run(t.Context(), "api-resources", "--verbs=list", "-o", "name")
		if err != nil {
			return err
		}
		var wanted []string
		for _, kind := range strings.Fields(kinds) {
			// Events outlive what they tell of, and end by themselves.
			if !strings.HasPrefix(kind, "events") {
				wanted = append(wanted, kind)
			}
		}
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
