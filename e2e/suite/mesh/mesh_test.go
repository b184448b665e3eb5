package mesh

import (
	"encoding/json"
	"testing"
)

func TestMetricsAreRead(t *testing.T) {
	samples, err := ParseMetrics("# HELP x y\n# TYPE x counter\nx{a=\"1\",b=\"q\\\"},{\\\\\\n\"} 2\nx{a=\"1\",b=\"\"} 3 1700000000\nx{a=\"2\"} 4\nplain 5e3\n\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := Sum(samples, "x", map[string]string{"a": "1"}); got != 5 {
		t.Errorf("sum %v", got)
	}
	if got := samples[0].Labels["b"]; got != "q\"},{\\\n" {
		t.Errorf("label %q", got)
	}
	if got := Sum(samples, "plain", nil); got != 5000 {
		t.Errorf("plain %v", got)
	}
	for _, bad := range []string{"x", "x{a=\"1\"}", "x{a=\"1} 2", "x{a} 2", "x nonsense"} {
		if _, err := ParseMetrics(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestEvidenceIsRead(t *testing.T) {
	var evidence ProxyEvidence
	err := json.Unmarshal([]byte(`{"workload": "a/x", "leaf": null, "outbound": [], "inbound": [
		{"source": "s", "destination": "d", "tls": "1.3", "group": "X25519MLKEM768",
		 "signatures": {"client": "ML-DSA-65", "server": null}, "class": "pq", "resumed": false, "reason": null, "count": 12}]}`), &evidence)
	if err != nil {
		t.Fatal(err)
	}
	row := &evidence.Inbound[0]
	if row.GroupName() != "X25519MLKEM768" || row.ClientSignature() != "ML-DSA-65" || row.ServerSignature() != "" || row.Why() != "" {
		t.Errorf("%+v", row)
	}
	if Count(evidence.Inbound, func(c *Connections) bool { return c.Class == "pq" }) != 12 {
		t.Error("count")
	}
}
