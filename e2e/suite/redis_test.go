package suite

// Redis: short questions in great number, many at once on one connection, and answers that come when somebody
// else acts.

import (
	"fmt"
	"strings"
	"testing"
)

func TestRedis(t *testing.T) {
	ask := func(words ...string) []string { return append([]string{"redis-cli", "-h", "server"}, words...) }
	talk := meet(t, "e2e-redis", Pair{
		Server: redisImage, Client: redisImage,
		Command: []string{"/usr/bin/redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no", "--dir", "/data"},
		Ports:   []Port{{"tcp-redis", 6379}},
		Hello:   ask("-e", "ping"),
	})
	t.Run("a question", func(t *testing.T) {
		talk.says(t, ask("-e", "set", "lamp", "blue")...)
		if got := talk.says(t, ask("-e", "get", "lamp")...); got != "blue\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		got := talk.says(t, "redis-benchmark", "-h", "server", "-n", "5000", "-c", "10", "-P", "16", "-t", "set,get,lpush", "--csv")
		for _, kind := range []string{"SET", "GET", "LPUSH"} {
			if !strings.Contains(got, `"`+kind+`",`) {
				t.Errorf("no line for %s in %s", kind, got)
			}
		}
		// It sends whole batches, so some may be more than it was told.
		var length int
		if _, err := fmt.Sscan(talk.says(t, ask("-e", "llen", "mylist")...), &length); err != nil || length < 5000 {
			t.Errorf("the list has %d entries, want 5000 or more: %v", length, err)
		}
	})
	t.Run("a large value", func(t *testing.T) {
		talk.says(t, ask("-e", "setrange", "large", "3000000", "end")...)
		if got := talk.says(t, ask("-e", "--no-raw", "strlen", "large")...); got != "(integer) 3000003\n" {
			t.Errorf("%q", got)
		}
		if got := talk.says(t, ask("-e", "get", "large")...); len(got) != 3000004 || !strings.HasSuffix(got, "end\n") {
			t.Errorf("%d bytes", len(got))
		}
	})
	t.Run("an answer that waits for somebody else", func(t *testing.T) {
		heard := make(chan string, 1)
		go func() {
			text, err := talk.try(t, ask("-e", "blpop", "room", "50")...)
			if err != nil {
				text = err.Error()
			}
			heard <- text
		}()
		eventually(t, "somebody waits", func() error {
			if text := talk.says(t, ask("-e", "info", "clients")...); !strings.Contains(text, "blocked_clients:1") {
				return fmt.Errorf("%q", text)
			}
			return nil
		})
		talk.says(t, ask("-e", "rpush", "room", "hello")...)
		if got := <-heard; got != "room\nhello\n" {
			t.Errorf("%q", got)
		}
	})
	talk.postQuantum(t)
}
