package suite

// The CA goes away and comes back: what runs keeps running, what is new waits, and the root stays.

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
)

func scale(t *testing.T, deployment string, replicas int) {
	t.Helper()
	if _, err := cluster.Run(t.Context(), "scale", "-n", bed.System, "deployment/"+deployment, fmt.Sprintf("--replicas=%d", replicas)); err != nil {
		t.Fatal(err)
	}
	if replicas > 0 {
		if err := rolledOut(t.Context(), bed.System, deployment); err != nil {
			t.Fatal(err)
		}
		return
	}
	if _, err := cluster.Run(t.Context(), "wait", "-n", bed.System, "--for=delete", "pod",
		"-l", "app.kubernetes.io/component="+strings.TrimPrefix(deployment, systemPrefix), "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
}

// Z-21, Z-22, A-01.
func TestTrafficGoesOnWithoutTheCA(t *testing.T) {
	namespace(t, "e2e-late", map[string]string{bed.Inject: "enabled"})
	client := pod(t, "shop", "client")
	scale(t, "trellis-ca", 0)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		_, _ = cluster.Run(context.Background(), "scale", "-n", bed.System, "deployment/trellis-ca", "--replicas=2")
	})

	if load := ask(t, client, "--count=50", "--fresh", "http://web/healthz", "tcp://orders:7000"); load.Sent != 100 {
		t.Errorf("%+v", load)
	}
	// A new pod tries five times, gives up with an error, and its application never starts.
	apply(t, manifest(t, podOf("e2e-late", nil)))
	eventually(t, "a proxy that gives up", func() error {
		late := getPod(t, "e2e-late", "case")
		if late.Ready() {
			t.Fatal("a pod without an identity is ready")
		}
		for _, status := range late.Status.InitContainerStatuses {
			if status.Name == proxyName && status.RestartCount > 0 {
				return nil
			}
		}
		return fmt.Errorf("%+v", late.Status.InitContainerStatuses)
	})
	log, err := cluster.Run(t.Context(), "logs", "-n", "e2e-late", "case", "-c", proxyName, "--previous")
	if err != nil {
		t.Fatal(err)
	}
	if attempts := strings.Count(log, "attempt"); attempts < 5 {
		t.Errorf("the log names %d attempts:\n%s", attempts, log)
	}
	for _, status := range getPod(t, "e2e-late", "case").Status.ContainerStatuses {
		if status.State.Running != nil || status.State.Terminated != nil {
			t.Error("the application started without a proxy")
		}
	}
	ask(t, client, "--count=20", "--fresh", "http://web/healthz")

	scale(t, "trellis-ca", 2)
	ready(t, "e2e-late", "case")
	late := getPod(t, "e2e-late", "case")
	ask(t, late, "--count=5", "http://web.shop/healthz")
}

// Without discovery proxies go on with what they know, over kept and over new connections.
func TestTrafficGoesOnWithoutDiscovery(t *testing.T) {
	client := pod(t, "shop", "client")
	ask(t, client, "--count=5", "--fresh", "http://web/healthz", "tcp://orders:7000")
	load := underLoad(t, client, []string{"http://web/healthz", "tcp://orders:7000"}, func() {
		scale(t, "trellis-discovery", 0)
		t.Cleanup(func() {
			if t.Failed() {
				_, _ = cluster.Run(context.Background(), "scale", "-n", bed.System, "deployment/trellis-discovery", "--replicas=2")
			}
		})
		ask(t, client, "--count=50", "--fresh", "http://web/healthz", "tcp://orders:7000")
		scale(t, "trellis-discovery", 2)
	})
	if load.Failed != 0 || load.Closed != 0 {
		t.Errorf("%d of %d requests failed, %d connections closed: %v", load.Failed, load.Sent, load.Closed, load.Errors)
	}
	// And hear of what is new again.
	server := lonely(t, "e2e-news", nil)
	ask(t, client, "--count=2", "--fresh", "tcp://"+hostPort(server.Status.PodIP, 7000))
}

// every replica of the CA is replaced under load, while certificates are asked for all the time; no
// request fails, and the root is the one from before.
func TestCAIsReplacedUnderLoad(t *testing.T) {
	look := func() (kube.Secret, kube.ConfigMap) {
		var root kube.Secret
		var trust kube.ConfigMap
		if err := cluster.Get(t.Context(), &root, "secret", "-n", bed.System, rootSecret); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Get(t.Context(), &trust, "configmap", "-n", "shop", trustMap); err != nil {
			t.Fatal(err)
		}
		return root, trust
	}
	rootBefore, trustBefore := look()
	client, server := pod(t, "shop", "client"), pod(t, "shop", "orders")
	load := underLoad(t, client, []string{"--workers=4", "--fresh", "http://web/healthz", "tcp://orders:7000"}, func() {
		if _, err := cluster.Run(t.Context(), "rollout", "restart", "-n", bed.System, "deployment/trellis-ca"); err != nil {
			t.Fatal(err)
		}
		renewedMeanwhile(t, server, func() error { return rolledOut(t.Context(), bed.System, "trellis-ca") })
	})
	if load.Failed != 0 {
		t.Errorf("%d of %d requests failed: %v", load.Failed, load.Sent, load.Errors)
	}
	t.Logf("%d requests, %d failed", load.Sent, load.Failed)
	rootAfter, trustAfter := look()
	if rootBefore.Metadata.ResourceVersion != rootAfter.Metadata.ResourceVersion {
		t.Error("the root's Secret was written")
	}
	if trustBefore.Data["bundle.pem"] != trustAfter.Data["bundle.pem"] {
		t.Error("the trust bundle changed")
	}
}

// renewedMeanwhile has a pod's proxy renew its certificate over and over while something is done, and no
// renewal may be missed.
func renewedMeanwhile(t *testing.T, pod *kube.Pod, do func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	for renewed := 1; ; renewed++ {
		rotate(t, pod, pod.Metadata.Labels["app"])
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d certificates renewed meanwhile", renewed)
			return
		default:
		}
	}
}
