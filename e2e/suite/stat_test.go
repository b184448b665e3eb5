package suite

// What the command line tells an operator.

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	trellis "trellis.dev/e2e/suite/mesh"
)

// T-03, T-52: in a namespace of which everything is injected, every connection is post-quantum, by default.
// The namespace is one of its own, so that no other test's plaintext is in it.
func TestStatShowsFullAdoption(t *testing.T) {
	server := lonely(t, "e2e-stat", nil)
	apply(t, manifest(t, podOf("e2e-stat", func(metadata, _ map[string]any) { metadata["name"] = "asker" })))
	asker := ready(t, "e2e-stat", "asker")
	ask(t, asker, "--count=7", "--fresh", "tcp://"+hostPort(server.Status.PodIP, 7000))

	stdout, stderr, err := mesh.Trellis(t.Context(), "stat", "-n", "e2e-stat", "--json")
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	var document trellis.Evidence
	if err := json.Unmarshal([]byte(stdout), &document); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	if document.APIVersion != "trellis.dev/evidence/v1" {
		t.Errorf("apiVersion %q", document.APIVersion)
	}
	if document.Adoption.Numerator != 7 || document.Adoption.Denominator != 7 {
		t.Errorf("adoption %+v, want 7 of 7: %+v", document.Adoption, document.Connections)
	}
	safe := trellis.Count(document.Connections, func(c *trellis.Connections) bool {
		return c.Class == "pq" && c.GroupName() == postQuantum && c.ClientSignature() == mldsa65 && c.ServerSignature() == mldsa65
	})
	if safe != 7 {
		t.Errorf("%d connections of class pq: %+v", safe, document.Connections)
	}

	table, stderr, err := mesh.Trellis(t.Context(), "stat", "-n", "shop")
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	for _, want := range []string{"web", "catalog", "orders", "client", postQuantum, mldsa65} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in:\n%s", want, table)
		}
	}
}

// Once the namespaces of earlier tests are gone, that is.
func TestCheckFindsNothingWrong(t *testing.T) {
	eventually(t, "a clean bill of health", func() error {
		stdout, stderr, err := mesh.Trellis(t.Context(), "check")
		if err != nil {
			return fmt.Errorf("%w\n%s%s", err, stdout, stderr)
		}
		return nil
	})
}

// A fault is found, and its remedy named.
func TestCheckFindsWhatIsWrong(t *testing.T) {
	namespace(t, "e2e-check", nil)
	apply(t, manifest(t, podOf("e2e-check", func(metadata, _ map[string]any) { metadata["name"] = "forgotten" })))
	ready(t, "e2e-check", "forgotten")
	if _, err := cluster.Run(t.Context(), "label", "namespace", "e2e-check", bed.Inject+"=enabled"); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, err := mesh.Trellis(t.Context(), "check")
	if err == nil {
		t.Error("a pod that was there before its namespace was labelled is no fault")
	}
	for _, want := range []string{"e2e-check/pod/forgotten", "make it again"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in:\n%s%s", want, stdout, stderr)
		}
	}
}
