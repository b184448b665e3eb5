package suite

// What the cluster keeps its state in stands still, and then crawls, while trust changes.

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
	trellis "trellis.dev/e2e/suite/mesh"
)

const healthPort = 15021

// direct reads a pod's port without the API server, which cannot even look a pod up while etcd is away.
// The machines of the own cluster are within reach of this one.
func direct(pod *kube.Pod, port int, path string) (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + hostPort(pod.Status.PodIP, port) + path)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, answer.Status, body)
	}
	return string(body), err
}

// gauge sums a metric over the replicas, however the API server fares.
func gauge(t *testing.T, replicas []kube.Pod, name string) float64 {
	t.Helper()
	var total float64
	for i := range replicas {
		text, err := direct(&replicas[i], metricsPort, "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		samples, err := trellis.ParseMetrics(text)
		if err != nil {
			t.Fatal(err)
		}
		total += trellis.Sum(samples, name, nil)
	}
	return total
}

// slowly lets a server run for a third of the time only, until the function that it returns is called.
func slowly(t *testing.T, server bed.Server) (end func()) {
	t.Helper()
	enough, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			err := server.Freeze()
			time.Sleep(glance)
			if thawed := server.Thaw(); err == nil {
				err = thawed
			}
			select {
			case <-enough:
				ended <- err
				return
			case <-time.After(glance / 2):
				if err != nil {
					ended <- err
					return
				}
			}
		}
	}()
	return func() {
		t.Helper()
		close(enough)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// A rotation begins; etcd stops answering until the CA's leader has given up its place, and is slow from
// then on. Requests are answered all the time, all certificates stay good, the rotation ends by itself, and
// so does another one.
func TestRotationOutlastsAStoreThatIsAwayAndThenSlow(t *testing.T) {
	if !mesh.Own() {
		t.Skip("the etcd of another's cluster is not ours to stop")
	}
	etcd, err := mesh.Server(t.Context(), "etcd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Thaw() })
	membersAre(t)
	before, authorities := trust(t), replicas(t)
	// The proxies whose certificates are looked at, while nobody can say which pods there are.
	shop := pods(t, "shop", "app")
	client := pod(t, "shop", "client")

	load := underLoad(t, client, []string{"--workers=2", "--fresh", "http://web/healthz", "tcp://orders:7000"}, func() {
		trustDo(t, "rotate")
		eventually(t, "the rotation", func() error {
			if status := trust(t); status.Rotation == nil {
				return fmt.Errorf("%s", status.settled())
			}
			return nil
		})
		if err := etcd.Freeze(); err != nil {
			t.Fatal(err)
		}
		away := time.Now()
		eventually(t, "that nobody leads", func() error {
			if leaders := gauge(t, authorities, "trellis_ca_leader"); leaders != 0 {
				return fmt.Errorf("%v do", leaders)
			}
			return nil
		})
		if rotating := gauge(t, authorities, "trellis_ca_trust_rotating"); rotating == 0 {
			t.Error("the rotation had ended before etcd was away: nothing was shown")
		}
		for i := range shop {
			certified(t, &shop[i])
		}
		t.Logf("etcd was away for %.1f s", time.Since(away).Seconds())
		end := slowly(t, etcd)
		defer end()
		settle(t, "ml-dsa-65")
		t.Logf("the rotation ended %.1f s after etcd had gone", time.Since(away).Seconds())
		t.Log(trustDo(t, "rotate", "--wait", "--timeout", "120"))
	})
	if load.Failed != 0 {
		t.Errorf("%d of %d requests failed: %v", load.Failed, load.Sent, load.Errors)
	}
	t.Logf("%d requests, %d failed, p99 %.1f ms", load.Sent, load.Failed, load.P99)

	after := trust(t)
	// The newest stands first.
	if second, first := after.Past[0], after.Past[1]; len(after.Anchors) != 1 || len(first.CutOff)+len(second.CutOff) > 0 ||
		first.Number != number(before)+1 || second.Number != number(before)+2 ||
		first.From != generation(before) || second.From != first.To || generation(after) != second.To {
		t.Errorf("from %s by %+v and %+v to %s, with the anchors %+v", before.Issuing, first, second, after.Issuing, after.Anchors)
	}
	eventually(t, "that all replicas are ready, and one leads", func() error {
		for i := range authorities {
			if _, err := direct(&authorities[i], healthPort, "/ready"); err != nil {
				return err
			}
		}
		if leaders := gauge(t, authorities, "trellis_ca_leader"); leaders != 1 {
			return fmt.Errorf("%v lead", leaders)
		}
		return nil
	})
	for i, now := range replicas(t) {
		if was := authorities[i]; now.Metadata.UID != was.Metadata.UID || restarts(&now) != restarts(&was) {
			t.Errorf("%s was replaced or restarted", was.Metadata.Name)
		}
	}
	membersAre(t)
	ask(t, client, "--count=20", "--fresh", "http://web/healthz", "tcp://orders:7000")
	issuedInOrder(t, verified(t), before.Anchors[0].Fingerprint, after.Anchors[0].Fingerprint)
}

// certified fails unless a pod's proxy is ready and holds a certificate that is good now.
func certified(t *testing.T, pod *kube.Pod) {
	t.Helper()
	if _, err := direct(pod, healthPort, "/ready"); err != nil {
		t.Errorf("%s: %v", pod.Metadata.Name, err)
	}
	text, err := direct(pod, metricsPort, "/evidence")
	if err != nil {
		t.Fatal(err)
	}
	var held trellis.ProxyEvidence
	if err := json.Unmarshal([]byte(text), &held); err != nil {
		t.Fatal(err)
	}
	if want := identity(pod.Metadata.Namespace, pod.Spec.ServiceAccountName); held.Leaf == nil || held.Leaf.Identity != want || time.Now().After(held.Leaf.NotAfter) {
		t.Errorf("%s holds %+v", pod.Metadata.Name, held.Leaf)
	}
}

// number of the last rotation that has ended.
func number(status trustStatus) int {
	if len(status.Past) == 0 {
		return 0
	}
	return status.Past[0].Number
}

// generation names what issues as rotations that are past do.
func generation(status trustStatus) string {
	kind, _, _ := strings.Cut(status.Issuing, " ")
	return strings.Replace(kind, ".", " generation ", 1)
}

// restarts of all containers of a pod.
func restarts(pod *kube.Pod) int {
	total := 0
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		total += status.RestartCount
	}
	return total
}
