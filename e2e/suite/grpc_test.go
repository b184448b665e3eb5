package suite

// gRPC: calls of all four kinds, and other people's clients.

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestGRPC(t *testing.T) {
	talk := meet(t, "e2e-grpc", Pair{
		Server: talkImage, Client: talkImage,
		Command: []string{"/usr/bin/talk", "serve"},
		Ports:   []Port{{"grpc", 9000}},
		Hello:   []string{"talk", "grpc", "--count", "1", "--timeout", "5s", "server:9000"},
	})
	t.Run("streams", func(t *testing.T) {
		talk.heard(t, map[string]int{"unary": 200, "server-stream": 200, "client-stream": 200, "both-streams": 200},
			"talk", "grpc", "--count", "200", "--size", "5000", "server:9000")
	})
	t.Run("large messages", func(t *testing.T) {
		talk.heard(t, map[string]int{"unary": 5, "server-stream": 5, "client-stream": 5, "both-streams": 5},
			"talk", "grpc", "--count", "5", "--size", "3000000", "server:9000")
	})
	t.Run("grpcurl", func(t *testing.T) {
		if got := talk.says(t, "grpcurl", "-plaintext", "server:9000", "list"); !strings.Contains(got, "talk.Talk\n") {
			t.Errorf("%q", got)
		}
		if got := talk.says(t, "grpcurl", "-plaintext", "server:9000", "grpc.health.v1.Health/Check"); !strings.Contains(got, `"SERVING"`) {
			t.Errorf("%q", got)
		}
		// How it went stands in the trailers.
		_, err := talk.try(t, "grpcurl", "-plaintext", "-d", `{"service": "nobody"}`, "server:9000", "grpc.health.v1.Health/Check")
		if err == nil || !strings.Contains(err.Error(), "NotFound") {
			t.Errorf("a service that there is not: %v", err)
		}
	})
	t.Run("ghz", func(t *testing.T) {
		text := talk.says(t, "ghz", "--insecure", "--call", "grpc.health.v1.Health.Check", "-n", "2000", "-c", "20", "--connections", "4", "-O", "json", "server:9000")
		var report struct {
			Count  int            `json:"count"`
			Status map[string]int `json:"statusCodeDistribution"`
		}
		if err := json.Unmarshal([]byte(text), &report); err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		if report.Count != 2000 || report.Status["OK"] != 2000 {
			t.Errorf("%+v", report)
		}
	})
	talk.postQuantum(t)
}
