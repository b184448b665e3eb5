package suite

// Who does not belong to the mesh gets nothing from it, neither as a client nor as a server, and is seen.

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
	"trellis.dev/e2e/suite/manifests"
	trellis "trellis.dev/e2e/suite/mesh"
)

// outcome is what the intruder prints about one attempt.
type outcome struct {
	Outcome     string `json:"outcome"`
	Alert       string `json:"alert"`
	Error       string `json:"error"`
	Group       string `json:"group"`
	Received    int    `json:"received"`
	Certificate []byte `json:"certificate"`
}

func stolenRoot(t *testing.T) string {
	t.Helper()
	var secret kube.Secret
	if err := cluster.Get(t.Context(), &secret, "secret", "-n", bed.System, rootSecret); err != nil {
		t.Fatal(err)
	}
	var state struct {
		Issuing string
		Anchors []struct{ Fingerprint, Certificate string }
	}
	if err := json.Unmarshal(secret.Data["trust.json"], &state); err != nil {
		t.Fatal(err)
	}
	root := secret.Data[state.Issuing[:16]+".key"]
	for _, anchor := range state.Anchors {
		if anchor.Fingerprint == state.Issuing {
			root = append(root, anchor.Certificate...)
		}
	}
	return base64.StdEncoding.EncodeToString(root)
}

func readManifest(t *testing.T, name string, values map[string]string) string {
	t.Helper()
	text, err := manifests.Read(name, values)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// attempts runs all of the intruder's attempts on a pod's tunnel.
func attempts(t *testing.T, target *kube.Pod) map[string]outcome {
	t.Helper()
	name := "intruder-of-" + strings.ToLower(t.Name())
	apply(t, readManifest(t, "intruder.yaml", map[string]string{
		"NAME": name, "ROOT": stolenRoot(t), "NODE_A": mesh.Nodes[0], "TARGET": hostPort(target.Status.PodIP, tunnelPort),
	}))
	eventually(t, "the end of all attempts", func() error {
		intruder := getPod(t, "outside", name)
		if len(intruder.Status.ContainerStatuses) == 0 {
			return errors.New("not started")
		}
		for _, status := range intruder.Status.ContainerStatuses {
			if status.State.Terminated == nil {
				return fmt.Errorf("%s has not ended", status.Name)
			}
		}
		return nil
	})
	found := map[string]outcome{}
	for _, container := range getPod(t, "outside", name).Spec.Containers {
		text, err := cluster.Run(t.Context(), "logs", "-n", "outside", name, "-c", container.Name)
		if err != nil {
			t.Fatal(err)
		}
		var one outcome
		if err := json.Unmarshal([]byte(text), &one); err != nil {
			t.Fatalf("%s: %v in %q", container.Name, err, text)
		}
		found[container.Name] = one
	}
	return found
}

// T-06, Z-04, Z-23, A-06, A-07, A-18: refused by a TLS alert before an application byte, and counted with
// the reason.
func TestTunnelRefusesIntruders(t *testing.T) {
	target := pod(t, "shop", "orders")
	before := metrics(t, "shop", target.Metadata.Name)
	outcomes := attempts(t, target)
	after := metrics(t, "shop", target.Metadata.Name)

	for _, c := range []struct {
		attempt string
		alerts  []string
		reason  string
	}{
		{"none", []string{"CertificateRequired"}, "no_certificate"},
		{"foreign", []string{"UnknownCA", "DecryptError", "BadCertificate"}, "unknown_issuer"},
		{"expired", []string{"CertificateExpired"}, "expired_certificate"},
		{"classical-exchange", []string{"HandshakeFailure"}, "no_common_group"},
	} {
		t.Run(c.attempt, func(t *testing.T) {
			got := outcomes[c.attempt]
			if got.Outcome != "alert" || got.Received != 0 || !slices.Contains(c.alerts, got.Alert) {
				t.Errorf("got %+v, want an alert of %v and no byte", got, c.alerts)
			}
			labels := map[string]string{"direction": "inbound", "result": "refused", "reason": c.reason}
			if counted := trellis.Sum(after, "trellis_handshakes_total", labels) - trellis.Sum(before, "trellis_handshakes_total", labels); counted != 1 {
				t.Errorf("%v handshakes were counted as refused for %s, want 1", counted, c.reason)
			}
		})
	}
	t.Run("control", func(t *testing.T) {
		if got := outcomes["control"]; got.Outcome != "accepted" || got.Group != postQuantum {
			t.Errorf("the attempt with nothing wrong ended with %+v", got)
		}
	})
	// Not one of them reached the application.
	opened := trellis.Sum(after, "trellis_connections_total", map[string]string{"direction": "inbound", "class": "pq"}) -
		trellis.Sum(before, "trellis_connections_total", map[string]string{"direction": "inbound", "class": "pq"})
	if opened != 0 {
		t.Errorf("%v connections to the application were opened", opened)
	}
}

// What speaks no TLS at all is cut off too.
func TestTunnelRefusesWhatIsNotTLS(t *testing.T) {
	target := pod(t, "shop", "orders")
	reason := map[string]string{"direction": "inbound", "result": "refused", "reason": "not_tls"}
	before := trellis.Sum(metrics(t, "shop", target.Metadata.Name), "trellis_handshakes_total", reason)
	outsider := pod(t, "outside", "client")
	text, _, err := cluster.Try(t.Context(), "GET / HTTP/1.1\r\nHost: orders\r\n\r\n", "exec", "-i", "-n", "outside", outsider.Metadata.Name,
		"-c", "client", "--", "/usr/bin/load", "dial", hostPort(target.Status.PodIP, tunnelPort))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "HTTP") {
		t.Errorf("the tunnel answered %q", text)
	}
	counts(t, 1, func() int64 {
		return int64(trellis.Sum(metrics(t, "shop", target.Metadata.Name), "trellis_handshakes_total", reason) - before)
	})
}

// a server is refused before a byte of a request, whatever it claims to be.
func TestClientRefusesImpostors(t *testing.T) {
	apply(t, readManifest(t, "impostor.yaml", map[string]string{"ROOT": stolenRoot(t)}))
	client := pod(t, "shop", "client")
	for _, c := range []struct{ name, reason string }{
		{"other", "wrong_identity"},
		{"expired", "expired_certificate"},
		{"foreign", "unknown_issuer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			impostor := ready(t, "e2e-impostor", c.name)
			labels := map[string]string{"direction": "outbound", "result": "refused", "reason": c.reason}
			before := trellis.Sum(metrics(t, "shop", client.Metadata.Name), "trellis_handshakes_total", labels)
			text, err := cluster.Exec(t.Context(), "shop", client.Metadata.Name, "client",
				"/usr/bin/load", "fetch", "http://"+hostPort(impostor.Status.PodIP, 8080)+"/"+canary)
			if err == nil {
				t.Fatalf("the impostor was asked, and answered %q", text)
			}
			eventually(t, "a refused handshake in the count", func() error {
				if counted := trellis.Sum(metrics(t, "shop", client.Metadata.Name), "trellis_handshakes_total", labels) - before; counted < 1 {
					return fmt.Errorf("none for %s", c.reason)
				}
				return nil
			})
			log, err := cluster.Run(t.Context(), "logs", "-n", "e2e-impostor", c.name)
			if err != nil {
				t.Fatal(err)
			}
			met := 0
			for line := range strings.Lines(log) {
				var one outcome
				if err := json.Unmarshal([]byte(line), &one); err != nil || one.Outcome == "" {
					continue
				}
				met++
				if one.Received != 0 || one.Outcome == "accepted" {
					t.Errorf("the impostor was told %d bytes: %+v", one.Received, one)
				}
			}
			if met == 0 {
				t.Errorf("the impostor met nobody: %s", log)
			}
		})
	}
}
