package suite

// Other people's programs read our metrics: a real Prometheus, and a real OpenTelemetry Collector.

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
	"trellis.dev/e2e/suite/manifests"
	trellis "trellis.dev/e2e/suite/mesh"
)

// query asks Prometheus for one number.
func query(t *testing.T, expression string) (float64, error) {
	t.Helper()
	text, err := cluster.Proxied(t.Context(), "e2e-watch", "prometheus", 9090, "/api/v1/query?query="+url.QueryEscape(expression))
	if err != nil {
		return 0, err
	}
	var answer struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return 0, err
	}
	if len(answer.Data.Result) != 1 {
		return 0, fmt.Errorf("%s has %d results", expression, len(answer.Data.Result))
	}
	number, _ := answer.Data.Result[0].Value[1].(string)
	return strconv.ParseFloat(number, 64)
}

// C-12, T-39, T-40: the chart's own recording rules give the adoption rate, checked against a known mix:
// in a namespace of its own six connections were post-quantum and two were not.
func TestPrometheusRecordsTheAdoptionRate(t *testing.T) {
	mix(t, "e2e-mix", 6, 2)
	watch(t, "e2e-mix", "shop", bed.System)
	for expression, want := range map[string]float64{
		`trellis:connections_quantum_safe:sum{namespace="e2e-mix"}`: 6,
		`trellis:connections:sum{namespace="e2e-mix"}`:              8,
	} {
		eventually(t, expression, func() error {
			got, err := query(t, expression)
			if err == nil && got != want {
				err = fmt.Errorf("%v, want %v", got, want)
			}
			return err
		})
	}
	eventually(t, "rate over the mesh", func() error {
		got, err := query(t, "trellis:adoption:ratio")
		if err == nil && (got <= 0 || got >= 1) {
			err = fmt.Errorf("%v: plaintext and post-quantum connections were both made", got)
		}
		return err
	})
	// Every proxy and every part of the control plane is scraped.
	eventually(t, "all targets up", func() error {
		down, err := query(t, "count(up == 0) or vector(0)")
		if err != nil {
			return err
		}
		if down > 0 {
			return fmt.Errorf("%v targets are down", down)
		}
		return nil
	})
	for _, metric := range []string{"trellis_ca_issued_total", "trellis_discovery_streams", "trellis_injector_admissions_total", "trellis_bytes_total"} {
		if _, err := query(t, "count("+metric+")"); err != nil {
			t.Errorf("%s: %v", metric, err)
		}
	}
}

// watch starts a Prometheus that evaluates the rules as the chart installed them, over all pods of some
// namespaces.
func watch(t *testing.T, namespaces ...string) {
	t.Helper()
	rules, err := cluster.Run(t.Context(), "get", "configmap", "-n", bed.System, "trellis-prometheus-rules", "-o", `jsonpath={.data.trellis\.rules\.yaml}`)
	if err != nil {
		t.Fatal(err)
	}
	var targets []any
	for _, namespace := range namespaces {
		var all kube.List[kube.Pod]
		if err := cluster.Get(t.Context(), &all, "pods", "-n", namespace, "--field-selector=status.phase=Running"); err != nil {
			t.Fatal(err)
		}
		for _, one := range all.Items {
			targets = append(targets, map[string]any{
				"targets": []string{hostPort(one.Status.PodIP, metricsPort)},
				"labels":  map[string]string{"namespace": namespace, "pod": one.Metadata.Name},
			})
		}
	}
	apply(t, readManifest(t, "prometheus.yaml", map[string]string{
		"RULES": manifests.Indent(rules, 4), "TARGETS": manifest(t, targets),
	}))
	ready(t, "e2e-watch", "prometheus")
}

// mix makes a meshed server in a namespace of its own, and connections to it of two kinds.
func mix(t *testing.T, name string, safe, plain int) {
	t.Helper()
	server := lonely(t, name, nil)
	address := "tcp://" + hostPort(server.Status.PodIP, 7000)
	ask(t, pod(t, "shop", "client"), fmt.Sprintf("--count=%d", safe), "--fresh", address)
	ask(t, pod(t, "outside", "client"), fmt.Sprintf("--count=%d", plain), "--fresh", address)
	rows := evidence(t, server).Inbound
	if got := trellis.Count(rows, func(c *trellis.Connections) bool { return c.Class == "pq" }); got != int64(safe) {
		t.Fatalf("%d post-quantum connections, want %d", got, safe)
	}
}

// C-12: metrics arrive by OTLP, with the labels that the dashboards need.
func TestCollectorReceivesMetrics(t *testing.T) {
	collector := pod(t, "e2e-watch", "collector")
	for _, want := range []string{"trellis_handshakes_total", "trellis_connections_total", "class: Str(pq)", "group: Str(" + postQuantum + ")", "peer: Str(spiffe://cluster.local/ns/shop/sa/"} {
		eventually(t, want+" in the collector", func() error {
			text, err := cluster.Run(t.Context(), "logs", "-n", "e2e-watch", collector.Metadata.Name, "--tail=20000")
			if err != nil {
				return err
			}
			if !strings.Contains(text, want) {
				return errors.New("not received")
			}
			return nil
		})
	}
}
