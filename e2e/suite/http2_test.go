package suite

// HTTP/2 without TLS of its own, by prior knowledge; and HTTP/1.1 beside it on the same port.

import (
	"encoding/json"
	"testing"
)

func TestHTTP2PriorKnowledge(t *testing.T) {
	talk := meet(t, "e2e-http2", Pair{
		Server: talkImage, Client: talkImage,
		Command: []string{"/usr/bin/talk", "serve"},
		Ports:   []Port{{"http", 8080}},
		Hello:   []string{"talk", "http2", "--count", "1", "--timeout", "5s", "http://server:8080/"},
	})
	t.Run("many at once", func(t *testing.T) {
		talk.heard(t, map[string]int{"answers": 500, "http2": 500}, "talk", "http2", "--count", "500", "--size", "20000", "http://server:8080/")
	})
	t.Run("large bodies", func(t *testing.T) {
		talk.heard(t, map[string]int{"answers": 10, "http2": 10}, "talk", "http2", "--count", "10", "--size", "4000000", "http://server:8080/")
	})
	t.Run("the older version on the same port", func(t *testing.T) {
		text := talk.says(t, "fortio", "load", "-quiet", "-c", "8", "-n", "2000", "-qps", "0", "-json", "-", "http://server:8080/")
		var report struct {
			RetCodes map[string]int
		}
		if err := json.Unmarshal([]byte(text), &report); err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		if report.RetCodes["200"] != 2000 {
			t.Errorf("%+v", report)
		}
	})
	talk.postQuantum(t)
}
