package suite

// Policy as an object of the cluster: refused where it means nothing, live where it does, and its status.

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/manifests"
	trellis "trellis.dev/e2e/suite/mesh"
)

// policyStatus is what the test reads of a PQPolicy.
type policyStatus struct {
	Metadata struct {
		Generation int64 `json:"generation"`
	} `json:"metadata"`
	Status struct {
		Conditions []struct {
			Type               string `json:"type"`
			Status             string `json:"status"`
			Reason             string `json:"reason"`
			Message            string `json:"message"`
			ObservedGeneration int64  `json:"observedGeneration"`
		} `json:"conditions"`
		Workloads struct {
			Selected   int      `json:"selected"`
			Within     int      `json:"within"`
			Outside    int      `json:"outside"`
			Compliant  []string `json:"compliant"`
			Exceptions []struct {
				Workload string `json:"workload"`
				Reason   string `json:"reason"`
			} `json:"exceptions"`
		} `json:"workloads"`
	} `json:"status"`
}

// T-32, T-34, T-35, T-36: what is demanded changes by one field, in a pod that runs on; the status says who is
// outside and why.
func TestPolicyIsLive(t *testing.T) {
	const name = "e2e-policy"
	server := lonely(t, name, nil)
	address := hostPort(server.Status.PodIP, 7000)
	outsider, member := pod(t, "outside", "client"), pod(t, "shop", "client")
	answered := func() bool {
		text, _, err := cluster.Try(t.Context(), "PING x\n", "exec", "-i", "-n", "outside", outsider.Metadata.Name, "-c", "client", "--", "/usr/bin/load", "dial", address)
		return err == nil && strings.Contains(text, "220")
	}
	is := func(want bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("a stranger is served: %t", want), func() error {
			if answered() != want {
				return errors.New("not yet")
			}
			return nil
		})
		ask(t, member, "--count=2", "--fresh", "tcp://"+address)
	}
	is(true)
	policy(t, name, "plaintext: Strict")
	is(false)
	refused := func(c *trellis.Connections) bool { return c.Why() == "refused_plaintext" }
	if trellis.Count(evidence(t, server).Inbound, refused) == 0 {
		t.Error("nobody was counted as refused")
	}
	accepted(t, name, "True", "Accepted")
	if workloads := status(t, name).Status.Workloads; workloads.Selected != workloads.Within+workloads.Outside || workloads.Selected == 0 {
		t.Errorf("workloads %+v", workloads)
	}
	policy(t, name, "plaintext: Permissive")
	is(true)

	// The slide's object, but for its group.
	policy(t, name, "algorithms: [kyber768, dilithium3]\n  hybrid: true\n  rollback: enabled")
	accepted(t, name, "True", "Accepted")
	is(true)

	// A known field with a value that means nothing is refused, and changes nothing.
	if _, err := cluster.Apply(t.Context(), policyOf(t, name, "keyExchange: prefer")); err == nil || !strings.Contains(err.Error(), "keyExchange") {
		t.Errorf("a value that means nothing: %v", err)
	}
	is(true)
	// A field that nobody knows closes.
	policy(t, name, "plaintextt: Permissive")
	is(false)
	accepted(t, name, "False", "UnknownField")
	if _, err := cluster.Run(t.Context(), "delete", "pqpolicy", "case", "-n", name); err != nil {
		t.Fatal(err)
	}
	is(true)

	after := ready(t, name, "case")
	if after.Metadata.UID != server.Metadata.UID || restarts(after) != restarts(server) {
		t.Error("something was started anew")
	}
}

func policyOf(t *testing.T, namespace, spec string) string {
	t.Helper()
	text, err := manifests.Read("policy.yaml", map[string]string{"NAMESPACE": namespace, "SPEC": spec})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func policy(t *testing.T, namespace, spec string) {
	t.Helper()
	if _, err := cluster.Apply(t.Context(), policyOf(t, namespace, spec)); err != nil {
		t.Fatal(err)
	}
}

func status(t *testing.T, namespace string) policyStatus {
	t.Helper()
	var found policyStatus
	if err := cluster.Get(t.Context(), &found, "pqpolicy", "case", "-n", namespace); err != nil {
		t.Fatal(err)
	}
	return found
}

func accepted(t *testing.T, namespace, want, reason string) {
	t.Helper()
	eventually(t, "the condition "+reason, func() error {
		found := status(t, namespace)
		for _, one := range found.Status.Conditions {
			if one.Type == "Accepted" && one.Status == want && one.Reason == reason && one.ObservedGeneration == found.Metadata.Generation {
				return nil
			}
		}
		return fmt.Errorf("%+v", found.Status.Conditions)
	})
}
