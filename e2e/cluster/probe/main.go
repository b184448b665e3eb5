// probe is what the cluster's own tests run in pods: a server that says who it is and who asked, and a
// client that asks.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 2 && arguments[0] == "serve":
		return serve(arguments[1])
	case len(arguments) > 1 && arguments[0] == "ask":
		for _, url := range arguments[1:] {
			if err := ask(url); err != nil {
				return fmt.Errorf("%s: %w", url, err)
			}
		}
		return nil
	}
	return fmt.Errorf("usage: probe serve ADDRESS | probe ask URL...")
}

// serve answers every request with two words: its own name and the address of who asks.
func serve(address string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, name, from)
	}))
}

// ask prints an answer. It asks again for a while: rules for a new Service reach nodes a moment later.
func ask(url string) error {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	deadline := time.Now().Add(20 * time.Second)
	for {
		answer, err := get(client, url)
		if err == nil {
			fmt.Print(answer)
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func get(client http.Client, url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}
