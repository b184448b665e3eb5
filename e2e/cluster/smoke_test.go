//go:build smoke

package main

// The whole program against a real machine, as root: go test -tags smoke -timeout 20m .

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const smokeName = "smoke"

// program runs the cluster program, through its script as everybody does.
func program(t *testing.T, input string, arguments ...string) (string, error) {
	t.Helper()
	command := exec.Command("./cluster", append([]string{"--name", smokeName}, arguments...)...)
	command.Stdin = strings.NewReader(input)
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	err := command.Run()
	t.Logf("cluster %s\n%s", strings.Join(arguments, " "), output.String())
	return output.String(), err
}

func must(t *testing.T, input string, arguments ...string) string {
	t.Helper()
	output, err := program(t, input, arguments...)
	if err != nil {
		t.Fatalf("cluster %s: %v", strings.Join(arguments, " "), err)
	}
	return output
}

// eventually repeats a check that depends on what goes on in the cluster.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

func smokeLayout(t *testing.T) Layout {
	t.Helper()
	layout, err := newLayout(smokeName, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	return layout
}

// traces lists what of the cluster there is on the machine.
func traces(t *testing.T) []string {
	t.Helper()
	layout, plan := smokeLayout(t), Plan{Name: smokeName}
	var found []string
	paths := []string{layout.State, layout.Link, layout.Link + ".lock", filepath.Join("/sys/class/net", plan.HostLink())}
	for _, space := range plan.Namespaces() {
		paths = append(paths, filepath.Join(namespaceDir, space))
	}
	cgroups, err := detectCgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range cgroups.roots {
		paths = append(paths, filepath.Join(root, plan.Cgroup()))
	}
	for _, path := range paths {
		if _, err := os.Lstat(path); err == nil {
			found = append(found, path)
		}
	}
	mounts, err := os.ReadFile(mountInfo)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, "-"+smokeName+"-") || strings.Contains(line, layout.State) {
			found = append(found, "mount: "+line)
		}
	}
	return append(found, clusterProcesses(t)...)
}

// clusterProcesses finds what runs of the cluster: by arguments, where its paths and node names occur,
// and by cgroup. The dead that wait for init to bury them have neither.
func clusterProcesses(t *testing.T) []string {
	t.Helper()
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, folder := range folders {
		program, err := os.Readlink(filepath.Join(folder, "exe"))
		if err != nil {
			continue // gone, a kernel thread, or dead
		}
		arguments, _ := os.ReadFile(filepath.Join(folder, "cmdline"))
		cgroup, _ := os.ReadFile(filepath.Join(folder, "cgroup"))
		mounts, _ := os.ReadFile(filepath.Join(folder, "mountinfo"))
		if strings.Contains(string(arguments), registryDir+"/"+smokeName+"/") ||
			strings.Contains(string(cgroup)+"\n", ":"+Plan{Name: smokeName}.Cgroup()+"/") ||
			strings.Contains(string(mounts), smokeLayout(t).State+"/") {
			found = append(found, "process: "+filepath.Base(folder)+" "+program)
		}
	}
	return found
}

// machineState is what clusters together must give back; with others about it cannot be judged.
func machineState(t *testing.T) map[string]string {
	t.Helper()
	state := map[string]string{}
	if links, err := registered(); err != nil || len(links) > 0 {
		t.Logf("other clusters run (%v, %v): what they share with this one is not checked", links, err)
		return state
	}
	for _, command := range []string{
		"ip route show", "ip -6 route show", "ls -A /run", "ls -A /var/lib", "ls -A /var/log", "ls -A /opt", "ls -A /etc",
	} {
		words := strings.Fields(command)
		output, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, output)
		}
		state[command] = string(output)
	}
	for _, setting := range kubeletSettings {
		value, err := os.ReadFile(filepath.Join("/proc/sys", setting))
		if err != nil {
			t.Fatal(err)
		}
		state[setting] = string(value)
	}
	return state
}

func assertAsBefore(t *testing.T, before map[string]string) {
	t.Helper()
	// A program that a killed `up` was just running may take a moment to notice.
	eventually(t, "left behind", func() error {
		if found := traces(t); len(found) > 0 {
			return errors.New(strings.Join(found, "\n"))
		}
		return nil
	})
	after := machineState(t)
	for _, what := range sortedKeys(after) {
		if was, known := before[what]; known && was != after[what] {
			t.Errorf("%s differs\nbefore:\n%s\nafter:\n%s", what, was, after[what])
		}
	}
}

// smoke prepares a test that may change the machine, and checks at its end that nothing stayed.
func smoke(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("run the smoke tests as root")
	}
	must(t, "", "down")
	before := machineState(t)
	t.Cleanup(func() {
		must(t, "", "down")
		assertAsBefore(t, before)
		must(t, "", "down")
	})
}

// probeImage packs the probe program.
func probeImage(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	binary := filepath.Join(folder, "probe")
	command := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./probe")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("go build ./probe: %v: %s", err, output)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := (Image{Name: "localhost/probe:1", Program: "probe", User: "1000:1000"}).write(&archive, data); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(folder, "probe.tar")
	if err := os.WriteFile(name, archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// serverOn is a pod on one node and a dual-stack Service before it.
func serverOn(node string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: server-%[1]s, labels: {app: server-%[1]s}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  containers:
  - name: probe
    image: localhost/probe:1
    imagePullPolicy: Never
    args: [serve, ":80"]
    readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web-%[1]s}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: server-%[1]s}
  ports: [{port: 8000, targetPort: 80}]
---
`, node)
}

func TestPodsTalkAcrossNodes(t *testing.T) {
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) { podsTalk(t, nodes) })
	}
}

func podsTalk(t *testing.T, nodes int) {
	smoke(t)
	must(t, "", "up", "--nodes", fmt.Sprint(nodes))
	if output := must(t, "", "up"); !strings.Contains(output, "is up already") {
		t.Errorf("a second up said: %s", output)
	}
	image := probeImage(t)
	if output := must(t, "", "load", image); strings.Count(output, "1 loaded, 0 there already") != nodes {
		t.Errorf("load said: %s", output)
	}
	if output := must(t, "", "load", image); strings.Count(output, "0 loaded, 1 there already") != nodes {
		t.Errorf("a second load said: %s", output)
	}
	manifest := ""
	for _, node := range (Plan{Name: smokeName, Nodes: nodes}).AllNodes() {
		manifest += serverOn(node.Name)
	}
	must(t, manifest, "kubectl", "apply", "-f", "-")
	must(t, "", "kubectl", "wait", "pod", "--all", "--for=condition=Ready", "--timeout=60s")

	for _, node := range []string{"n1", "n2"} {
		four, six := clusterIPs(t, "web-"+node)
		podFour, podSix := podIPs(t, "server-"+node)
		urls := []string{
			"http://web-" + node + ":8000/", "http://" + four + ":8000/", "http://[" + six + "]:8000/",
			"http://" + podFour + "/", "http://[" + podSix + "]/",
		}
		for _, from := range []string{"n1", "n2"} {
			// From both nodes: across the fabric, and back to the node that the question comes from.
			output := must(t, "", append([]string{"kubectl", "exec", "server-" + from, "--", "/probe", "ask"}, urls...)...)
			askFour, askSix := podIPs(t, "server-"+from)
			for i, line := range strings.Split(strings.TrimSpace(output), "\n") {
				fields := strings.Fields(line)
				if len(fields) != 2 || fields[0] != "server-"+node {
					t.Errorf("from %s, %s: %q", from, urls[i], line)
					continue
				}
				// A pod that reaches itself through its Service is masqueraded; all others are not.
				if from != node && fields[1] != askFour && fields[1] != askSix {
					t.Errorf("from %s, %s was asked by %s, want %s or %s", from, urls[i], fields[1], askFour, askSix)
				}
			}
			if lines := strings.Count(output, "\n"); lines != len(urls) {
				t.Errorf("from %s: %d answers, want %d: %s", from, lines, len(urls), output)
			}
		}
		t.Run("from the machine to "+node, func(t *testing.T) {
			for _, url := range urls[1:] {
				eventually(t, url, func() error { return answers(url, "server-"+node) })
			}
		})
	}
	t.Run("from outside", func(t *testing.T) {
		port := strings.TrimSpace(must(t, "", "kubectl", "get", "service", "web-n1", "-o", "jsonpath={.spec.ports[0].nodePort}"))
		probe := filepath.Join(filepath.Dir(image), "probe")
		record, err := smokeLayout(t).load()
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range record.Plan.AllNodes() {
			must(t, "", "ext-exec", probe, "ask", fmt.Sprintf("http://%s:%s/", node.IPv4, port))
			must(t, "", "ext-exec", probe, "ask", fmt.Sprintf("http://[%s]:%s/", node.IPv6, port))
		}
	})
	t.Run("through load balancers", func(t *testing.T) { balancersAnswer(t, image) })
	t.Run("logs and interfaces", func(t *testing.T) {
		must(t, "", "kubectl", "logs", "server-n2")
		if output := must(t, "", "node-exec", "n2", "ip", "-o", "link"); !strings.Contains(output, "cni0") {
			t.Errorf("node n2 has no pod bridge: %s", output)
		}
		must(t, "", "status")
	})
	t.Run("interfaces that are closed elsewhere", func(t *testing.T) {
		output := must(t, "", "kubectl", "api-resources", "--api-group=certificates.k8s.io")
		for _, kind := range []string{"ClusterTrustBundle", "PodCertificateRequest"} {
			if !strings.Contains(output, kind) {
				t.Errorf("the API has no %s", kind)
			}
		}
	})
}

func answers(url, want string) error {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && !strings.HasPrefix(string(body), want+" ") {
		err = fmt.Errorf("answer %q", body)
	}
	return err
}

func clusterIPs(t *testing.T, service string) (four, six string) {
	t.Helper()
	return pair(t, must(t, "", "kubectl", "get", "service", service, "-o", "jsonpath={.spec.clusterIPs}"))
}

func podIPs(t *testing.T, pod string) (four, six string) {
	t.Helper()
	return pair(t, must(t, "", "kubectl", "get", "pod", pod, "-o", "jsonpath={.status.podIPs[*].ip}"))
}

func pair(t *testing.T, text string) (four, six string) {
	t.Helper()
	var list []string
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		list = strings.Fields(text)
	}
	if len(list) != 2 {
		t.Fatalf("want two addresses, got %q", text)
	}
	return list[0], list[1]
}

func TestTwoClustersAtOnce(t *testing.T) {
	smoke(t)
	const other = smokeName + "-2"
	t.Cleanup(func() { must(t, "", "--name", other, "down") })
	must(t, "", "up", "--nodes", "1")
	must(t, "", "--name", other, "up", "--nodes", "1")
	must(t, "", "status")
	must(t, "", "--name", other, "status")
	must(t, "", "--name", other, "down")
	must(t, "", "status")
}

func TestUpRepairs(t *testing.T) {
	smoke(t)
	must(t, "", "up", "--nodes", "1")
	record, err := smokeLayout(t).load()
	if err != nil {
		t.Fatal(err)
	}
	victim, err := record.server("kubelet-n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "kubelet ends", func() error {
		if victim.Alive() {
			return errors.New("it runs")
		}
		return nil
	})
	if output, err := program(t, "", "status"); err == nil || !strings.Contains(output, "kubelet-n1 has ended") {
		t.Errorf("status said: %s", output)
	}
	if output := must(t, "", "up"); !strings.Contains(output, "is not well") {
		t.Errorf("up said: %s", output)
	}
	if output := must(t, "", "kubectl", "get", "nodes", "-o", "name"); strings.TrimSpace(output) != "node/n1" {
		t.Errorf("the cluster was made anew with other nodes: %s", output)
	}
}

// What is stored survives, no process does, and the same pods run again.
func TestRestartKeepsWhatIsStored(t *testing.T) {
	smoke(t)
	must(t, "", "up", "--nodes", "2")
	must(t, "", "kubectl", "create", "configmap", "kept", "--from-literal=word=before")
	pods := func() string {
		return must(t, "", "kubectl", "get", "pods", "-n", "kube-system", "-o", "jsonpath={range .items[*]}{.metadata.uid}{end}")
	}
	before, etcd := pods(), must(t, "", "pid", "etcd")
	must(t, "", "restart")
	must(t, "", "status")
	if word := must(t, "", "kubectl", "get", "configmap", "kept", "-o", "jsonpath={.data.word}"); word != "before" {
		t.Errorf("the ConfigMap says %q", word)
	}
	if after := pods(); after != before {
		t.Errorf("pods before %s and after %s", before, after)
	}
	if must(t, "", "pid", "etcd") == etcd {
		t.Error("etcd has not restarted")
	}
	if output, err := program(t, "", "pid", "etc"); err == nil || !strings.Contains(output, "kube-apiserver") {
		t.Errorf("of a server that there is not: %s", output)
	}
}

func TestFailedUpSaysWhy(t *testing.T) {
	smoke(t)
	log := smokeLayout(t).Log("kube-apiserver")
	done := make(chan struct{})
	var output string
	var err error
	go func() {
		defer close(done)
		output, err = program(t, "", "up")
	}()
	eventually(t, "the API server runs", func() error {
		record, err := smokeLayout(t).load()
		if err != nil {
			return err
		}
		server, err := record.server("kube-apiserver")
		if err != nil {
			return err
		}
		if text, err := os.ReadFile(log); err != nil || len(text) == 0 {
			return errors.New("it has logged nothing yet")
		}
		return syscall.Kill(server.PID, syscall.SIGKILL)
	})
	<-done
	if err == nil || !strings.Contains(output, "kube-apiserver has ended; the last lines of its log "+log) {
		t.Errorf("up said: %s", output)
	}
	if _, err := os.Stat(log); err != nil {
		t.Errorf("the log that it names: %v", err)
	}
}

func TestInterruptedUpLeavesNothing(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			smoke(t)
			before := machineState(t)
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			command := exec.CommandContext(ctx, "./cluster", "--name", smokeName, "up")
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "containers run", func() error {
				if !slices.ContainsFunc(clusterProcesses(t), func(p string) bool { return strings.Contains(p, "containerd") }) {
					return errors.New("none yet")
				}
				return nil
			})
			if err := command.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			err := command.Wait()
			var ended *exec.ExitError
			if signal == syscall.SIGINT {
				if !errors.As(err, &ended) || ended.ExitCode() != 130 {
					t.Errorf("up ended with %v, want exit code 130", err)
				}
				assertAsBefore(t, before)
			}
		})
	}
}
