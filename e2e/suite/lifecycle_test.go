package suite

// Pods begin and end in the right order, and rollouts lose nothing.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
)

// The very first thing that this application does goes through the mesh, and it does not try again: it
// only succeeds if the proxy was there before it. When it ends, the proxy ends, so that the Job completes.
func TestJobBeginsAfterItsProxyAndEndsWithIt(t *testing.T) {
	namespace(t, "e2e-job", map[string]string{bed.Inject: "enabled"})
	apply(t, manifest(t, map[string]any{
		"apiVersion": "batch/v1", "kind": "Job", "metadata": map[string]any{"name": "job", "namespace": "e2e-job"},
		"spec": map[string]any{
			"backoffLimit": 0,
			"template": map[string]any{"metadata": map[string]any{"labels": map[string]string{"app": "job"}}, "spec": map[string]any{
				"restartPolicy": "Never",
				"containers": []any{map[string]any{
					"name": "client", "image": "trellis.dev/e2e/go:1", "args": []string{"run", "--count=5", "--fresh", "http://web.shop/echo/job", "tcp://orders.shop:7000"},
				}},
			}},
		},
	}))
	if _, err := cluster.Run(t.Context(), "wait", "-n", "e2e-job", "job/job", "--for=condition=Complete", "--timeout=60s"); err != nil {
		t.Fatal(errors.Join(err, explain(t.Context(), "e2e-job")))
	}
	var jobPods kube.List[kube.Pod]
	if err := cluster.Get(t.Context(), &jobPods, "pods", "-n", "e2e-job", "-l", "app=job"); err != nil {
		t.Fatal(err)
	}
	text, err := cluster.Run(t.Context(), "logs", "-n", "e2e-job", jobPods.Items[0].Metadata.Name, "-c", "client")
	if err != nil {
		t.Fatal(err)
	}
	// The log has the word that it started as well as the result.
	load := readLoad(t, text[strings.Index(text, "{"):])
	if load.Sent != 10 || load.Failed != 0 {
		t.Errorf("%+v", load)
	}
}

// Drain: all replicas of a service, and their proxies, are replaced under load, over kept and over new
// connections.
func TestRolloutLosesNoRequest(t *testing.T) {
	client := pod(t, "shop", "client")
	before := pods(t, "shop", "app=web")
	underRequests(t, client, "http://web/echo/rollout", func() {
		if _, err := cluster.Run(t.Context(), "rollout", "restart", "-n", "shop", "deployment/web"); err != nil {
			t.Fatal(err)
		}
		if err := rolledOut(t.Context(), "shop", "web"); err != nil {
			t.Fatal(err)
		}
		for _, old := range before {
			if _, err := cluster.Run(t.Context(), "wait", "-n", "shop", "pod/"+old.Metadata.Name, "--for=delete", "--timeout=60s"); err != nil && !strings.Contains(err.Error(), "not found") {
				t.Fatal(err)
			}
		}
	})
}

// The whole control plane is replaced, one part after the other, and no request notices.
func TestControlPlaneIsReplacedUnderRequests(t *testing.T) {
	underRequests(t, pod(t, "shop", "client"), "http://web/echo/control", func() {
		for _, name := range []string{"trellis-ca", "trellis-discovery", "trellis-injector"} {
			if _, err := cluster.Run(t.Context(), "rollout", "restart", "-n", bed.System, "deployment/"+name); err != nil {
				t.Fatal(err)
			}
			if err := rolledOut(t.Context(), bed.System, name); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Without a single injector the cluster's own components start as ever, and so does everything outside the
// mesh; what is to be in the mesh waits rather than start unprotected.
func TestClusterDoesNotDependOnTheInjector(t *testing.T) {
	namespace(t, "e2e-closed", map[string]string{bed.Inject: "enabled"})
	scale(t, "trellis-injector", 0)
	t.Cleanup(func() {
		if t.Failed() {
			_, _ = cluster.Run(context.Background(), "scale", "-n", bed.System, "deployment/trellis-injector", "--replicas=2")
		}
	})
	for _, open := range []string{"kube-system", bed.System, "outside"} {
		if _, _, _, err := admit(t, podOf(open, nil)); err != nil {
			t.Errorf("%s: %v", open, err)
		}
	}
	if _, _, _, err := admit(t, podOf("e2e-closed", nil)); err == nil {
		t.Error("a pod of a labelled namespace was admitted without the injector")
	} else if !strings.Contains(err.Error(), "inject.trellis.dev") {
		t.Errorf("the refusal does not name the webhook: %v", err)
	}
	scale(t, "trellis-injector", 2)
	eventually(t, "injection again", func() error {
		admitted, _, _, err := admit(t, podOf("e2e-closed", nil))
		if err == nil && admitted.Init(proxyName) == nil {
			err = fmt.Errorf("admitted without a proxy")
		}
		return err
	})
}

// A rolling restart of the injector is not seen by those who create pods.
func TestInjectorRestartRefusesNobody(t *testing.T) {
	namespace(t, "e2e-rolling", map[string]string{bed.Inject: "enabled"})
	if _, err := cluster.Run(t.Context(), "rollout", "restart", "-n", bed.System, "deployment/trellis-injector"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- rolledOut(t.Context(), bed.System, "trellis-injector") }()
	for tries := 0; ; tries++ {
		admitted, _, _, err := admit(t, podOf("e2e-rolling", nil))
		if err != nil {
			t.Fatalf("try %d: %v", tries, err)
		}
		if admitted.Init(proxyName) == nil {
			t.Fatalf("try %d: admitted without a proxy", tries)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}
