// Command web is the shop's front: an ordinary HTTP server that asks the catalog over HTTP and places
// orders over a TCP protocol. It knows nothing of any mesh.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// Shop knows where the other services are.
type Shop struct {
	catalog string
	orders  string
	client  *http.Client
}

// Page is the answer to GET /.
type Page struct {
	Host  string          `json:"host"`
	Items json.RawMessage `json:"items"`
	Order string          `json:"order"`
}

func main() {
	listen := env("LISTEN", ":8080")
	shop := &Shop{
		catalog: env("CATALOG", "http://catalog:8000"),
		orders:  env("ORDERS", "orders:7000"),
		client:  &http.Client{Timeout: 5 * time.Second},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /echo/{text}", echo)
	mux.HandleFunc("POST /swallow", swallow)
	mux.HandleFunc("GET /{$}", shop.page)

	server := &http.Server{Addr: listen, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			log.Printf("shutdown: %v", err)
		}
	}()
	log.Printf("listening on %s", listen)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-done
}

func (s *Shop) page(w http.ResponseWriter, r *http.Request) {
	items, err := s.items(r.Context())
	if err != nil {
		http.Error(w, "catalog: "+err.Error(), http.StatusBadGateway)
		return
	}
	order, err := s.order(r.Context(), "lamp")
	if err != nil {
		http.Error(w, "orders: "+err.Error(), http.StatusBadGateway)
		return
	}
	host, _ := os.Hostname()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(Page{Host: host, Items: items, Order: order})
}

func (s *Shop) items(ctx context.Context) (json.RawMessage, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.catalog+"/items", nil)
	if err != nil {
		return nil, err
	}
	answer, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, 1<<20))
}

// order waits for the greeting first: that protocol's server speaks before its client.
func (s *Shop) order(ctx context.Context, item string) (string, error) {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	connection, err := dialer.DialContext(ctx, "tcp", s.orders)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	lines := bufio.NewReader(connection)
	greeting, err := lines.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("greeting: %w", err)
	}
	if !strings.HasPrefix(greeting, "220 ") {
		return "", fmt.Errorf("unexpected greeting %q", greeting)
	}
	if _, err := fmt.Fprintf(connection, "ORDER %s\n", item); err != nil {
		return "", err
	}
	answer, err := lines.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("answer: %w", err)
	}
	return strings.TrimSpace(answer), nil
}

func echo(w http.ResponseWriter, r *http.Request) {
	host, _ := os.Hostname()
	fmt.Fprintf(w, "%s from %s to %s\n", r.PathValue("text"), r.RemoteAddr, host)
}

// swallow reads a body of any size and says how long it was.
func swallow(w http.ResponseWriter, r *http.Request) {
	length, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintln(w, length)
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
