package suite

// Which pods get a proxy, decided by a real API server with real selectors.

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
)

// template is a pod to which cases add what they are about.
type template map[string]any

func podOf(namespace string, change func(metadata, spec map[string]any)) template {
	metadata := map[string]any{"name": "case", "namespace": namespace}
	spec := map[string]any{
		// What the strictest Pod Security asks for, so that only injection decides.
		"securityContext": map[string]any{"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": map[string]any{"type": "RuntimeDefault"}},
		"containers": []any{map[string]any{
			"name": "client", "image": "trellis.dev/e2e/go:1", "args": []string{"idle"},
			"securityContext": map[string]any{"allowPrivilegeEscalation": false, "capabilities": map[string]any{"drop": []string{"ALL"}}},
		}},
		"terminationGracePeriodSeconds": 1,
	}
	if change != nil {
		change(metadata, spec)
	}
	return template{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
}

// admit asks the API server what would become of an object, without creating it.
func admit(t *testing.T, object any) (pod *kube.Pod, raw, warnings string, err error) {
	t.Helper()
	raw, warnings, err = cluster.Try(t.Context(), manifest(t, object), "create", "--dry-run=server", "-o", "json", "-f", "-")
	if err != nil {
		return nil, raw, warnings, err
	}
	pod = &kube.Pod{}
	if err := json.Unmarshal([]byte(raw), pod); err != nil {
		t.Fatal(err)
	}
	return pod, raw, warnings, nil
}

func annotated(key, value string) func(metadata, spec map[string]any) {
	return func(metadata, _ map[string]any) { metadata["annotations"] = map[string]string{key: value} }
}

func labelled(value string) func(metadata, spec map[string]any) {
	return func(metadata, _ map[string]any) { metadata["labels"] = map[string]string{bed.Inject: value} }
}

// C-04, C-09.
func TestInjectionTruthTable(t *testing.T) {
	namespace(t, "e2e-on", map[string]string{bed.Inject: "enabled"})
	namespace(t, "e2e-off", nil)
	namespace(t, "e2e-disabled", map[string]string{bed.Inject: "disabled"})
	const (
		injected = "injected"
		left     = "left alone"
		refused  = "refused"
	)
	for _, c := range []struct {
		name      string
		namespace string
		change    func(metadata, spec map[string]any)
		want      string
		says      string
	}{
		{"labelled namespace", "e2e-on", nil, injected, ""},
		{"pod opts out by annotation", "e2e-on", annotated(bed.Inject, "disabled"), left, ""},
		{"pod opts out by label", "e2e-on", labelled("disabled"), left, ""},
		{"namespace without label", "e2e-off", nil, left, ""},
		{"pod opts in by label", "e2e-off", labelled("enabled"), injected, ""},
		{"namespace opted out", "e2e-disabled", nil, left, ""},
		{"pod opts in where the namespace opted out", "e2e-disabled", labelled("enabled"), injected, ""},
		{"host network", "e2e-on", func(_, spec map[string]any) { spec["hostNetwork"] = true }, left, "network"},
		{"kube-system", "kube-system", labelled("enabled"), left, ""},
		{"own namespace", bed.System, labelled("enabled"), left, ""},
		{"a user whose traffic is not captured", "e2e-on", func(_, spec map[string]any) {
			spec["securityContext"].(map[string]any)["runAsUser"] = 1337
		}, refused, "1337"},
		{"unknown annotation", "e2e-on", annotated("trellis.dev/skip-inbound-port", "80"), refused, "skip-inbound-ports"},
		{"bad value", "e2e-on", annotated("trellis.dev/skip-inbound-ports", "many"), refused, "many"},
		{"switch that is no switch", "e2e-on", annotated(bed.Inject, "yes"), refused, "enabled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod, _, warnings, err := admit(t, podOf(c.namespace, c.change))
			if c.want == refused {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("was admitted, or without naming %q: %v", c.says, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := pod.Init(proxyName) != nil; got != (c.want == injected) {
				t.Errorf("injected: %v, want %s", got, c.want)
			}
			if !strings.Contains(warnings, c.says) {
				t.Errorf("warning %q does not name %q", warnings, c.says)
			}
			if c.want == injected {
				checkShape(t, pod)
			}
		})
	}
}

// checkShape looks at what was added: two init containers in their order, and nothing for the application.
func checkShape(t *testing.T, pod *kube.Pod) {
	t.Helper()
	if len(pod.Spec.InitContainers) != 2 || pod.Spec.InitContainers[0].Name != captureName || pod.Spec.InitContainers[1].Name != proxyName {
		t.Fatalf("init containers %+v", pod.Spec.InitContainers)
	}
	if policy := pod.Init(proxyName).RestartPolicy; policy != "Always" {
		t.Errorf("the proxy is no native sidecar: restart policy %q", policy)
	}
	for _, container := range pod.Spec.Containers {
		for _, mount := range container.VolumeMounts {
			if strings.HasPrefix(mount.Name, systemPrefix) {
				t.Errorf("container %s sees the volume %s", container.Name, mount.Name)
			}
		}
	}
}

func TestInjectingTwiceChangesNothing(t *testing.T) {
	namespace(t, "e2e-twice", map[string]string{bed.Inject: "enabled"})
	_, raw, _, err := admit(t, podOf("e2e-twice", nil))
	if err != nil {
		t.Fatal(err)
	}
	var once, twice map[string]any
	if err := json.Unmarshal([]byte(raw), &once); err != nil {
		t.Fatal(err)
	}
	// What the API server itself gives to each new object.
	forget := func(object map[string]any) {
		metadata := object["metadata"].(map[string]any)
		for _, field := range []string{"uid", "creationTimestamp", "resourceVersion", "managedFields"} {
			delete(metadata, field)
		}
		delete(object, "status")
	}
	forget(once)
	_, raw, _, err = admit(t, once)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(raw), &twice); err != nil {
		t.Fatal(err)
	}
	forget(twice)
	if !reflect.DeepEqual(once, twice) {
		t.Errorf("first %v\nthen  %v", once, twice)
	}
}

func TestApplyingTwiceRestartsNothing(t *testing.T) {
	namespace(t, "e2e-again", map[string]string{bed.Inject: "enabled"})
	text := manifest(t, map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "app", "namespace": "e2e-again"},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": map[string]string{"app": "app"}},
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]string{"app": "app"}},
				"spec":     podOf("", nil)["spec"],
			},
		},
	})
	apply(t, text)
	if err := rolledOut(t.Context(), "e2e-again", "app"); err != nil {
		t.Fatal(err)
	}
	before := pod(t, "e2e-again", "app")
	if _, err := cluster.Apply(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if _, _, err := cluster.Try(t.Context(), text, "diff", "-f", "-"); err != nil {
		t.Errorf("the cluster differs from what was applied: %v", err)
	}
	after := pods(t, "e2e-again", "app=app")
	if len(after) != 1 || after[0].Metadata.UID != before.Metadata.UID {
		t.Error("applying the same manifest made another pod")
	}
}

func TestLabelSwitchesInjectionOnAndOff(t *testing.T) {
	namespace(t, "e2e-switch", nil)
	expect := func(want bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("injection: %v", want), func() error {
			pod, _, _, err := admit(t, podOf("e2e-switch", nil))
			if err != nil {
				return err
			}
			if got := pod.Init(proxyName) != nil; got != want {
				return fmt.Errorf("injected: %v", got)
			}
			return nil
		})
	}
	expect(false)
	for _, step := range []struct {
		label string
		want  bool
	}{{bed.Inject + "=enabled", true}, {bed.Inject + "-", false}} {
		if _, err := cluster.Run(t.Context(), "label", "namespace", "e2e-switch", step.label, "--overwrite"); err != nil {
			t.Fatal(err)
		}
		expect(step.want)
	}
}

// A pod that could not be injected although it was to be says so: in the warning to whoever made it, and
// in an Event for whoever looks later.
func TestHostNetworkIsExplainedInAnEvent(t *testing.T) {
	namespace(t, "e2e-host", map[string]string{bed.Inject: "enabled"})
	object := podOf("e2e-host", func(_, spec map[string]any) { spec["hostNetwork"] = true })
	if warnings := apply(t, manifest(t, object)); !strings.Contains(warnings, "network") {
		t.Errorf("warning: %q", warnings)
	}
	eventually(t, "event", func() error {
		var events kube.List[kube.Event]
		if err := cluster.Get(t.Context(), &events, "events", "-n", "e2e-host"); err != nil {
			return err
		}
		for _, event := range events.Items {
			if strings.Contains(event.Message, "network") && event.InvolvedObject.Name == "case" {
				return nil
			}
		}
		return fmt.Errorf("%d events, none about the network", len(events.Items))
	})
}
