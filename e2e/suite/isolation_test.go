package suite

// Network policies, the chart's and an application's, where somebody enforces them: what is to be kept out is kept
// out, and the mesh works on.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
	trellis "trellis.dev/e2e/suite/mesh"
)

// readyPort is where the kubelet asks the control plane, and nobody else.
const readyPort = 15021

// enforced runs the rest of a test on a cluster that enforces its NetworkPolicies.
func enforced(t *testing.T) {
	t.Helper()
	enforcer, err := mesh.Enforce(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := enforcer.End(); err != nil {
			t.Errorf("rules are left on the nodes: %v", err)
		}
		if t.Failed() {
			t.Log(enforcer.Said())
		}
	})
}

// metricsFrom says which namespace may scrape the control plane; every one may when it is empty.
func metricsFrom(ctx context.Context, folder, namespace string) error {
	peers := []any{}
	if namespace != "" {
		peers = []any{map[string]any{"namespaceSelector": map[string]any{"matchLabels": map[string]any{"kubernetes.io/metadata.name": namespace}}}}
	}
	return upgraded(ctx, folder, map[string]any{"networkPolicy": map[string]any{"enabled": true, "metricsFrom": peers}})
}

// probed makes a pod that is not in the mesh on every node, in a namespace.
func probed(t *testing.T, name string) (found []*kube.Pod) {
	t.Helper()
	namespace(t, name, nil)
	for _, node := range mesh.Nodes {
		apply(t, manifest(t, podOf(name, func(metadata, spec map[string]any) {
			metadata["name"], spec["nodeName"] = "on-"+node, node
		})))
	}
	for _, node := range mesh.Nodes {
		found = append(found, ready(t, name, "on-"+node))
	}
	return found
}

// reaches is nil where one HTTP request came through.
func reaches(t *testing.T, from *kube.Pod, url string) error {
	t.Helper()
	_, err := cluster.Exec(t.Context(), from.Metadata.Namespace, from.Metadata.Name, "client", "/usr/bin/load", "fetch", "--timeout=3s", url)
	return err
}

// each asks all URLs from all pods, a dozen at once: who is not answered at all waits for its end.
func each(t *testing.T, from []*kube.Pod, urls []string, wrong func(error) error) error {
	t.Helper()
	answers, slots := make(chan error), make(chan struct{}, 12)
	for _, pod := range from {
		for _, url := range urls {
			go func() {
				slots <- struct{}{}
				err := wrong(reaches(t, pod, url))
				<-slots
				if err != nil {
					err = fmt.Errorf("from %s to %s: %w", pod.Metadata.Name, url, err)
				}
				answers <- err
			}()
		}
	}
	var all error
	for range len(from) * len(urls) {
		all = errors.Join(all, <-answers)
	}
	return all
}

// passes and blocked wait until all URLs are reached from all pods, or none from any.
func passes(t *testing.T, what string, from []*kube.Pod, urls []string) {
	t.Helper()
	eventually(t, what+" get through", func() error {
		return each(t, from, urls, func(err error) error { return err })
	})
}

func blocked(t *testing.T, what string, from []*kube.Pod, urls []string) {
	t.Helper()
	eventually(t, what+" are blocked", func() error {
		return each(t, from, urls, func(err error) error {
			switch {
			case err == nil:
				return errors.New("it gets through")
			case strings.Contains(err.Error(), "connection refused"), strings.Contains(err.Error(), "deadline exceeded"):
				return nil
			}
			return err
		})
	})
}

// controlPlane is where each of its pods answers at a port, over every family.
func controlPlane(t *testing.T, port int, path string) (urls []string) {
	t.Helper()
	for _, component := range []string{"ca", "discovery", "injector"} {
		for _, pod := range pods(t, bed.System, "app.kubernetes.io/component="+component) {
			for _, family := range []int{4, 6} {
				if address := pod.Address(family); address != "" {
					urls = append(urls, "http://"+hostPort(address, port)+path)
				}
			}
		}
	}
	if len(urls) < 3 {
		t.Fatalf("the control plane is only %q", urls)
	}
	return urls
}

// who is in a namespace that no policy of the chart names reaches nothing of the control plane but what is there
// for everybody, who may scrape does, and all that users need of the mesh works.
func TestControlPlaneIsIsolated(t *testing.T) {
	if !mesh.Own() {
		t.Skip("whether another's cluster enforces network policies is its owner's affair")
	}
	const watch, strange, member = "e2e-isolation-watch", "e2e-isolation-strange", "e2e-isolation-member"
	folder := t.TempDir()
	if err := metricsFrom(t.Context(), folder, watch); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		if err := metricsFrom(ctx, folder, ""); err != nil {
			t.Error(err)
		}
	})
	watchers, strangers := probed(t, watch), probed(t, strange)
	inner, scraped := controlPlane(t, readyPort, "/ready"), controlPlane(t, metricsPort, "/metrics")
	// Nobody enforces anything yet.
	passes(t, "probes of ports that are nobody's", strangers, inner)
	passes(t, "scrapes of strangers", strangers, scraped)
	before := restartsOf(t)

	enforced(t)
	blocked(t, "probes of ports that are nobody's", append(watchers, strangers...), inner)
	blocked(t, "scrapes of strangers", strangers, scraped)
	passes(t, "scrapes of those who may", watchers, scraped)

	// A new pod is injected, gets a certificate, and talks to a server.
	namespace(t, member, map[string]string{bed.Inject: "enabled"})
	apply(t, manifest(t, podOf(member, nil)))
	client := ready(t, member, "case")
	ask(t, client, "--count=5", "--fresh", "http://web.shop/echo/isolated")
	ask(t, client, "--count=5", "--fresh", "tcp://orders.shop:7000")
	if safe := trellis.Count(evidence(t, client).Outbound, func(c *trellis.Connections) bool {
		return c.Destination == identity("shop", "orders") && c.Class == "pq"
	}); safe != 5 {
		t.Errorf("%d post-quantum connections instead of 5", safe)
	}
	// What cannot be met is refused by the webhook, and what can is done.
	keeping(t, "e2e-isolation-kept")
	refused(t, "e2e-isolation-kept", "apiVersion: crypto.trellis.dev/v1\nkind: QuantumKEMKeyPair\nmetadata: {name: none}\nspec: {algorithm: ML-KEM-2048}", "spec.algorithm")
	must(t, "e2e-isolation-kept", "apiVersion: crypto.trellis.dev/v1\nkind: QuantumSignatureKeyPair\nmetadata: {name: pair}")
	becomes(t, "e2e-isolation-kept", "QuantumSignatureKeyPair", "pair", "Success")
	if after := restartsOf(t); after != before {
		t.Errorf("the control plane was %q, and is %q", before, after)
	}

	// It is the policies that keep them out, and they are put back by the upgrade at the end.
	if _, err := cluster.Run(t.Context(), "delete", "networkpolicies", "-n", bed.System, "--all"); err != nil {
		t.Fatal(err)
	}
	passes(t, "probes without policies", strangers, inner)
}

// restartsOf the control plane's pods, all of which are Ready.
func restartsOf(t *testing.T) (text string) {
	t.Helper()
	eventually(t, "the control plane is ready", func() error {
		text = ""
		for _, component := range []string{"ca", "discovery", "injector"} {
			for _, pod := range pods(t, bed.System, "app.kubernetes.io/component="+component) {
				if !pod.Ready() {
					return fmt.Errorf("%s is not ready", pod.Metadata.Name)
				}
				text += fmt.Sprintf("%s %d ", pod.Metadata.Name, restarts(&pod))
			}
		}
		return nil
	})
	return text
}

// guidePolicy is the example that the operator guide gives to applications.
func guidePolicy(t *testing.T) string {
	t.Helper()
	guide, err := os.ReadFile(filepath.Join(mesh.Root, "docs", "operator-guide.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(guide), "\n## Network policies\n")
	section, _, _ = strings.Cut(section, "\n## ")
	found := regexp.MustCompile("(?s)```yaml\n(apiVersion: networking.k8s.io/v1\n.*?)```").FindStringSubmatch(section)
	if found == nil {
		t.Fatal("the operator guide has no NetworkPolicy")
	}
	return found[1]
}

// fenced is a meshed server, of which a policy may speak by the label app.
func fenced(t *testing.T, namespace, app string) string {
	t.Helper()
	apply(t, manifest(t, podOf(namespace, func(metadata, spec map[string]any) {
		metadata["name"], metadata["labels"] = app, map[string]string{"app": app, bed.Inject: "enabled"}
		container := spec["containers"].([]any)[0].(map[string]any)
		delete(container, "args")
		container["command"] = []string{"/usr/bin/web"}
		container["readinessProbe"] = map[string]any{"httpGet": map[string]any{"path": "/healthz", "port": 8080}, "periodSeconds": 1}
	})))
	return "http://" + hostPort(ready(t, namespace, app).Status.PodIP, 8080) + "/echo/fenced"
}

// An application's own policy, the one that the operator guide gives, keeps other namespaces out, meshed or not, and
// the mesh of its own works; one that opens the application's port alone shuts the mesh out, without any plaintext.
func TestApplicationIsIsolated(t *testing.T) {
	if !mesh.Own() {
		t.Skip("whether another's cluster enforces network policies is its owner's affair")
	}
	const inside, outside, strange = "e2e-fenced", "e2e-fenced-out", "e2e-fenced-strange"
	strangers := probed(t, strange)
	asker := func(namespace, name, inject string) *kube.Pod {
		t.Helper()
		apply(t, manifest(t, podOf(namespace, func(metadata, _ map[string]any) {
			metadata["name"], metadata["labels"] = name, map[string]string{bed.Inject: inject}
		})))
		return ready(t, namespace, name)
	}
	namespace(t, inside, nil)
	namespace(t, outside, nil)
	neighbour, plain, foreigner := asker(inside, "meshed", "enabled"), asker(inside, "plain", "disabled"), asker(outside, "meshed", "enabled")
	web, narrow := fenced(t, inside, "web"), fenced(t, inside, "narrow")
	passes(t, "requests without any policy", append(strangers, plain), []string{web, narrow})

	enforced(t)
	must(t, inside, guidePolicy(t)+`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: narrow}
spec:
  podSelector: {matchLabels: {app: narrow}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {}}], ports: [{port: 8080}]}]`)
	blocked(t, "strangers without a proxy", strangers, []string{web, narrow})
	// These are the first connections of the proxies to these servers: one that is there already would go on.
	fails := func(from *kube.Pod, url string) {
		t.Helper()
		eventually(t, from.Metadata.Namespace+" is kept from "+url, func() error {
			if reaches(t, from, url) == nil {
				return errors.New("it gets through")
			}
			return nil
		})
	}
	fails(foreigner, web)
	passes(t, "neighbours, in the mesh and outside", []*kube.Pod{neighbour, plain}, []string{web})
	passes(t, "requests of who has no proxy", []*kube.Pod{plain}, []string{narrow})
	fails(neighbour, narrow)
	if _, err := cluster.Run(t.Context(), "delete", "networkpolicies", "-n", inside, "--all"); err != nil {
		t.Fatal(err)
	}
	passes(t, "requests without a policy any more", []*kube.Pod{neighbour, foreigner}, []string{web, narrow})
	for _, pod := range []*kube.Pod{neighbour, foreigner} {
		rows := evidence(t, pod).Outbound
		if weak := trellis.Count(rows, func(c *trellis.Connections) bool { return c.Class != "pq" }); weak != 0 || len(rows) == 0 {
			t.Errorf("%d connections were weaker: %+v", weak, rows)
		}
	}
}
