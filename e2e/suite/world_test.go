package suite

// What all tests share: the shop, the pods in it, and how one looks at them.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
	"trellis.dev/e2e/suite/manifests"
	trellis "trellis.dev/e2e/suite/mesh"
)

const (
	// patience is how long the suite waits for what should happen soon.
	patience = 60 * time.Second
	// glance is the pause between two looks at something that is awaited.
	glance = 200 * time.Millisecond

	metricsPort  = 15020
	proxyName    = "trellis-proxy"
	captureName  = "trellis-capture"
	postQuantum  = "X25519MLKEM768"
	mldsa65      = "ML-DSA-65"
	trustMap     = "trellis-trust"
	rootSecret   = "trellis-ca-root"
	systemPrefix = "trellis-"
)

// openShop puts the applications into the cluster: those in the mesh, and those outside.
func openShop(ctx context.Context) error {
	values := map[string]string{"NODE_A": mesh.Nodes[0], "NODE_B": mesh.Nodes[1], "IMAGES": mesh.Images}
	for _, name := range []string{"shop.yaml", "outside.yaml", "watch.yaml"} {
		text, err := manifests.Read(name, values)
		if err != nil {
			return err
		}
		if _, err := cluster.Apply(ctx, text); err != nil {
			return err
		}
	}
	for namespace, deployments := range map[string][]string{
		"shop":      {"web", "catalog", "orders", "client"},
		"outside":   {"web", "client"},
		"e2e-watch": {"collector"},
	} {
		for _, name := range deployments {
			if err := rolledOut(ctx, namespace, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func rolledOut(ctx context.Context, namespace, deployment string) error {
	_, err := cluster.Run(ctx, "rollout", "status", "-n", namespace, "deployment/"+deployment, "--timeout=120s")
	if err != nil {
		return errors.Join(err, explain(ctx, namespace))
	}
	return nil
}

// explain says why pods of a namespace do not come up.
func explain(ctx context.Context, namespace string) error {
	pods, _ := cluster.Run(ctx, "get", "pods", "-n", namespace, "-o", "wide")
	events, _ := cluster.Run(ctx, "get", "events", "-n", namespace, "--field-selector=type=Warning", "--sort-by=.lastTimestamp")
	return fmt.Errorf("pods:\n%sevents:\n%s", pods, events)
}

// apply applies a manifest, takes it away when the test ends, and returns admission's warnings.
func apply(t *testing.T, text string) string {
	t.Helper()
	warnings, err := cluster.Apply(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, _, err := cluster.Try(ctx, text, "delete", "-f", "-", "--ignore-not-found", "--wait=false", "--grace-period=1"); err != nil {
			t.Log(err)
		}
	})
	return warnings
}

// namespace makes a namespace with labels for one test.
func namespace(t *testing.T, name string, labels map[string]string) {
	t.Helper()
	all := map[string]string{"trellis.dev/e2e": "suite"}
	for key, value := range labels {
		all[key] = value
	}
	// One of that name may still be going, after an earlier run of the suite.
	if _, err := cluster.Run(t.Context(), "wait", "--for=delete", "namespace/"+name, "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	apply(t, manifest(t, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": all}}))
}

func manifest(t *testing.T, object any) string {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// eventually looks until there is no error left, or patience ends.
func eventually(t *testing.T, what string, look func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come about within %s: %v", what, patience, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(glance):
		}
	}
}

// pods returns the live pods with a label, sorted by name as the API does.
func pods(t *testing.T, namespace, selector string) []kube.Pod {
	t.Helper()
	var list kube.List[kube.Pod]
	if err := cluster.Get(t.Context(), &list, "pods", "-n", namespace, "-l", selector); err != nil {
		t.Fatal(err)
	}
	var live []kube.Pod
	for _, pod := range list.Items {
		if pod.Metadata.DeletionTimestamp == nil {
			live = append(live, pod)
		}
	}
	return live
}

// pod returns the first live pod of an app.
func pod(t *testing.T, namespace, app string) *kube.Pod {
	t.Helper()
	found := pods(t, namespace, "app="+app)
	if len(found) == 0 {
		t.Fatalf("no pod of %s in %s", app, namespace)
	}
	return &found[0]
}

func getPod(t *testing.T, namespace, name string) *kube.Pod {
	t.Helper()
	var found kube.Pod
	if err := cluster.Get(t.Context(), &found, "pod", "-n", namespace, name); err != nil {
		t.Fatal(err)
	}
	return &found
}

// ready waits for a pod and returns it.
func ready(t *testing.T, namespace, name string) *kube.Pod {
	t.Helper()
	if _, err := cluster.Run(t.Context(), "wait", "-n", namespace, "pod/"+name, "--for=condition=Ready", "--timeout=60s"); err != nil {
		t.Fatal(errors.Join(err, explain(t.Context(), namespace)))
	}
	return getPod(t, namespace, name)
}

// evidence is what a pod's proxy says of itself.
func evidence(t *testing.T, pod *kube.Pod) *trellis.ProxyEvidence {
	t.Helper()
	text, err := cluster.Proxied(t.Context(), pod.Metadata.Namespace, pod.Metadata.Name, metricsPort, "/evidence")
	if err != nil {
		t.Fatal(err)
	}
	var found trellis.ProxyEvidence
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return &found
}

// metrics of a pod.
func metrics(t *testing.T, namespace, name string) []trellis.Sample {
	t.Helper()
	text, err := cluster.Proxied(t.Context(), namespace, name, metricsPort, "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	samples, err := trellis.ParseMetrics(text)
	if err != nil {
		t.Fatal(err)
	}
	return samples
}

// Load is what `load run` prints.
type Load struct {
	Sent   int64            `json:"sent"`
	Failed int64            `json:"failed"`
	Opened int64            `json:"opened"`
	Closed int64            `json:"closed"`
	Errors map[string]int64 `json:"errors"`
	P50    float64          `json:"p50ms"`
	P99    float64          `json:"p99ms"`
	// Took is in seconds.
	Took float64 `json:"seconds"`
	Last string  `json:"last"`
}

func readLoad(t *testing.T, text string) Load {
	t.Helper()
	var load Load
	if err := json.Unmarshal([]byte(text), &load); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return load
}

// ask runs bounded load in a pod, all of which must succeed.
func ask(t *testing.T, from *kube.Pod, args ...string) Load {
	t.Helper()
	text, err := cluster.Exec(t.Context(), from.Metadata.Namespace, from.Metadata.Name, "client", append([]string{"/usr/bin/load", "run"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	load := readLoad(t, text)
	if load.Failed > 0 || load.Sent == 0 {
		t.Errorf("load %s: %d of %d failed: %v", strings.Join(args, " "), load.Failed, load.Sent, load.Errors)
	}
	return load
}

// underLoad keeps a pod asking while the test does something, and returns what it saw.
func underLoad(t *testing.T, from *kube.Pod, args []string, do func()) Load {
	t.Helper()
	program := append([]string{"/usr/bin/load", "run", "--count=0", "--pause=10ms"}, args...)
	stream, err := cluster.ExecStream(t.Context(), from.Metadata.Namespace, from.Metadata.Name, "client", program...)
	if err != nil {
		t.Fatal(err)
	}
	do()
	text, err := stream.End()
	if err != nil {
		t.Fatal(err)
	}
	load := readLoad(t, text)
	if load.Sent == 0 {
		t.Error("there was no load")
	}
	return load
}

// rate is how many requests come in a second while parts of the mesh are replaced: half of them on connections
// that are kept, half on new ones.
const rate = 500

// underRequests pours requests on a URL, as many as rate says however long answers take, while the test does
// something. None of them may fail.
func underRequests(t *testing.T, from *kube.Pod, url string, do func()) {
	t.Helper()
	half := fmt.Sprintf("--rate=%d", rate/2)
	var fresh Load
	kept := underLoad(t, from, []string{half, url + "?kept"}, func() {
		fresh = underLoad(t, from, []string{half, "--fresh", url + "?fresh"}, do)
	})
	for connections, load := range map[string]Load{"kept": kept, "new": fresh} {
		if load.Failed != 0 {
			t.Errorf("%s connections: %d of %d requests failed: %v", connections, load.Failed, load.Sent, load.Errors)
		}
		if due := load.Took * rate / 2; float64(load.Sent) < 0.95*due {
			t.Errorf("%s connections: %d requests in %.0f s, of %.0f that were due: the load itself is too slow", connections, load.Sent, load.Took, due)
		}
		t.Logf("%s connections: %d requests in %.0f s, %d failed", connections, load.Sent, load.Took, load.Failed)
	}
}

func identity(namespace, account string) string {
	return fmt.Sprintf("spiffe://cluster.local/ns/%s/sa/%s", namespace, account)
}

// hostPort writes an address as clients want it in URLs.
func hostPort(address string, port int) string {
	if strings.Contains(address, ":") {
		return fmt.Sprintf("[%s]:%d", address, port)
	}
	return fmt.Sprintf("%s:%d", address, port)
}

// alongside runs a command until the test ends, and gives what it says.
func alongside(t *testing.T, command *exec.Cmd) io.Reader {
	t.Helper()
	said, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	return said
}

// upgraded gives the release these values beside those that it has.
func upgraded(ctx context.Context, folder string, values map[string]any) error {
	text, err := json.Marshal(values)
	if err != nil {
		return err
	}
	file := filepath.Join(folder, "values.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	_, err = mesh.HelmRun(ctx, "upgrade", bed.Release, mesh.Chart(), "-n", bed.System, "--reuse-values", "-f", file, "--wait", "--timeout", "3m")
	return err
}
