package suite

// WebSocket: a connection that begins as HTTP/1.1 and goes on as something else.

import "testing"

func TestWebSocket(t *testing.T) {
	for name, server := range map[string]struct {
		image, url string
		command    []string
	}{
		"go":   {talkImage, "ws://server:8080/websocket", []string{"/usr/bin/talk", "serve"}},
		"node": {nodeImage, "ws://server:8080/room", []string{"/usr/bin/node", "/app/chat.js"}},
	} {
		t.Run(name, func(t *testing.T) {
			talk := meet(t, "e2e-websocket-"+name, Pair{
				Server: server.image, Client: talkImage, Command: server.command, Ports: []Port{{"http", 8080}},
				Hello: []string{"talk", "websocket", "--count", "1", "--timeout", "5s", server.url},
			})
			talk.heard(t, map[string]int{"messages": 300, "closed": 1}, "talk", "websocket", "--count", "300", server.url)
			talk.heard(t, map[string]int{"messages": 20, "closed": 1}, "talk", "websocket", "--count", "20", "--size", "1000000", server.url)
			talk.postQuantum(t)
		})
	}
}
