package main

// WebSocket, and HTTP/2 by prior knowledge.

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/coder/websocket"
)

// talkWebSocket says texts and bytes in turn over one connection, and takes leave as one should.
func talkWebSocket(ctx context.Context, t Talk) (Heard, error) {
	connection, _, err := websocket.Dial(ctx, t.target, nil)
	if err != nil {
		return nil, err
	}
	defer connection.CloseNow()
	connection.SetReadLimit(maxMessage)
	heard := Heard{}
	for i := range t.count {
		kind := []websocket.MessageType{websocket.MessageText, websocket.MessageBinary}[i%2]
		text := message(i, t.size)
		if err := connection.Write(ctx, kind, []byte(text)); err != nil {
			return nil, err
		}
		back, answer, err := connection.Read(ctx)
		if err != nil {
			return nil, err
		}
		if back == kind && string(answer) == text {
			heard["messages"]++
		}
	}
	if err := connection.Close(websocket.StatusNormalClosure, "done"); err != nil {
		return nil, err
	}
	heard["closed"] = 1
	return heard, nil
}

// talkHTTP2 asks everything at once, over as few connections as the protocol wants: one.
func talkHTTP2(ctx context.Context, t Talk) (Heard, error) {
	transport := &http.Transport{Proxy: nil, Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	var guard sync.Mutex
	heard, peers := Heard{}, map[string]bool{}
	failed := make(chan error, t.count)
	ask := func(i int) error {
		text := message(i, t.size)
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.target, strings.NewReader(text))
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(io.LimitReader(response.Body, maxMessage))
		if err != nil {
			return err
		}
		guard.Lock()
		defer guard.Unlock()
		if string(answer) == text && response.StatusCode == http.StatusOK {
			heard["answers"]++
		}
		if response.Proto == "HTTP/2.0" && response.Header.Get("X-Proto") == "HTTP/2.0" {
			heard["http2"]++
		}
		peers[response.Header.Get("X-Peer")] = true
		return nil
	}
	// The first one opens the connection for all others.
	if err := ask(0); err != nil {
		return nil, err
	}
	var group sync.WaitGroup
	for i := 1; i < t.count; i++ {
		group.Go(func() {
			if err := ask(i); err != nil {
				failed <- fmt.Errorf("request %d: %w", i, err)
			}
		})
	}
	group.Wait()
	heard["connections"] = len(peers)
	select {
	case err := <-failed:
		return heard, err
	default:
		return heard, nil
	}
}
