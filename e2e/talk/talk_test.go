package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// started tells the addresses that the server printed.
type started struct{ lines chan string }

func (s started) Write(p []byte) (int, error) {
	s.lines <- string(p)
	return len(p), nil
}

func TestClientsHearTheServer(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	out := started{make(chan string, 1)}
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"}, out) }()
	var grpc, http string
	if _, err := fmt.Sscanf(strings.ReplaceAll(<-out.lines, ",", " ,"), "gRPC on %s , HTTP on %s", &grpc, &http); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]Heard{
		"grpc --count 30 --size 100 " + grpc:                           {"unary": 30, "server-stream": 30, "client-stream": 30, "both-streams": 30},
		"grpc --count 2 --size 2000000 " + grpc:                        {"unary": 2, "server-stream": 2, "client-stream": 2, "both-streams": 2},
		"websocket --count 9 --size 70000 ws://" + http + "/websocket": {"messages": 9, "closed": 1},
		"http2 --count 50 --size 20000 http://" + http + "/some/thing": {"answers": 50, "http2": 50, "connections": 1},
	} {
		var text bytes.Buffer
		if err := run(t.Context(), strings.Fields(command), &text); err != nil {
			t.Errorf("%s: %v", command, err)
			continue
		}
		var heard Heard
		if err := json.Unmarshal(text.Bytes(), &heard); err != nil || fmt.Sprint(heard) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", command, heard, want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestMistakes(t *testing.T) {
	for line, want := range map[string]string{
		"": "usage", "sing": "unknown command", "grpc": "usage", "grpc a b": "usage", "grpc --count 0 a": "usage",
		"http2 http://127.0.0.1:1/": "refused", "websocket ws://127.0.0.1:1/": "refused", "grpc 127.0.0.1:1": "refused",
	} {
		if err := run(t.Context(), strings.Fields(line), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", line, err, want)
		}
	}
}
