package suite

// All of it goes at once and comes back: first the pods, then the machines with all that runs on them.

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
	trellis "trellis.dev/e2e/suite/mesh"
)

// Nobody is there first to help the others up. The mesh is as it was, with the same anchors.
func TestEverythingComesBackAtOnce(t *testing.T) {
	t.Run("all pods", func(t *testing.T) {
		before := trust(t)
		old := uids(everyone(t))
		// All in one go, and nobody else's.
		var all sync.WaitGroup
		for _, namespace := range []string{bed.System, "shop", "outside"} {
			all.Go(func() {
				if _, err := cluster.Run(t.Context(), "delete", "pods", "-n", namespace, "--all", "--grace-period=1", "--wait=false"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		back(t, func(pod *kube.Pod) error {
			if slices.Contains(old, pod.Metadata.UID) {
				return errors.New("is the one from before")
			}
			return nil
		})
		asBefore(t, before)
	})
	t.Run("all machines", func(t *testing.T) {
		if !mesh.Own() {
			t.Skip("the machines of another's cluster are not ours to restart")
		}
		before := trust(t)
		ended := map[string]int{}
		for _, pod := range everyone(t) {
			ended[pod.Metadata.UID] = restarts(&pod)
		}
		if err := mesh.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		back(t, func(pod *kube.Pod) error {
			if once, known := ended[pod.Metadata.UID]; known && restarts(pod) == once {
				return errors.New("has not restarted")
			}
			return nil
		})
		asBefore(t, before)
	})
}

// everyone is the control plane, the shop and those outside.
func everyone(t *testing.T) []kube.Pod {
	t.Helper()
	return slices.Concat(pods(t, bed.System, "app.kubernetes.io/name=trellis"), pods(t, "shop", "app"), pods(t, "outside", "app"))
}

func uids(pods []kube.Pod) []string {
	var all []string
	for _, pod := range pods {
		all = append(all, pod.Metadata.UID)
	}
	return all
}

// back waits until all are there again, ready and not what they were.
func back(t *testing.T, changed func(*kube.Pod) error) {
	t.Helper()
	// What was stored says at first that all is well: the last word is the pods' own.
	for namespace, deployments := range map[string][]string{
		bed.System:  {"trellis-ca", "trellis-discovery", "trellis-injector"},
		"shop":      {"web", "catalog", "orders", "client"},
		"outside":   {"web", "client"},
		"e2e-watch": {"collector"},
	} {
		for _, name := range deployments {
			if err := rolledOut(t.Context(), namespace, name); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "that all pods are back", func() error {
		for _, pod := range everyone(t) {
			if err := changed(&pod); err != nil || !pod.Ready() {
				return fmt.Errorf("%s/%s, ready %v: %v", pod.Metadata.Namespace, pod.Metadata.Name, pod.Ready(), err)
			}
		}
		return nil
	})
}

// asBefore fails unless the mesh rests on the same anchors, every proxy has a certificate and was there
// before its application, and what the shop says goes through tunnels.
func asBefore(t *testing.T, before trustStatus) {
	t.Helper()
	membersAre(t)
	after := trust(t)
	if !slices.Equal(after.Anchors, before.Anchors) || after.Issuing != before.Issuing || number(after) != number(before) {
		t.Errorf("trust was %+v and is %+v", before, after)
	}
	for _, pod := range pods(t, "shop", "app") {
		if leaf := evidence(t, &pod).Leaf; leaf == nil || leaf.Identity != identity("shop", pod.Spec.ServiceAccountName) {
			t.Errorf("%s holds %+v", pod.Metadata.Name, leaf)
		}
		afterItsProxy(t, &pod)
	}
	client := pod(t, "shop", "client")
	rows := evidence(t, client).Outbound
	ask(t, client, "--count=20", "--fresh", "http://web/", "tcp://orders:7000")
	now := evidence(t, client).Outbound
	if safe := grown(rows, now, func(c *trellis.Connections) bool { return c.Class == "pq" }); safe < 20 || safe > 40 {
		t.Errorf("%d post-quantum connections, want 20 for bytes and at most as many for requests", safe)
	}
	if weak := grown(rows, now, func(c *trellis.Connections) bool { return c.Class != "pq" }); weak != 0 {
		t.Errorf("%d connections were weaker", weak)
	}
}

// afterItsProxy fails if a container of the application began before the proxy.
func afterItsProxy(t *testing.T, pod *kube.Pod) {
	t.Helper()
	for _, proxy := range pod.Status.InitContainerStatuses {
		for _, own := range pod.Status.ContainerStatuses {
			if proxy.Name == proxyName && (proxy.State.Running == nil || own.State.Running == nil || own.State.Running.StartedAt.Before(proxy.State.Running.StartedAt)) {
				t.Errorf("%s: the proxy %+v, and %s %+v", pod.Metadata.Name, proxy.State, own.Name, own.State)
			}
		}
	}
}
