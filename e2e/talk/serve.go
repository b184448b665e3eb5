package main

// The servers.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// maxMessage bounds a message of any protocol.
const maxMessage = 8 << 20

func serve(ctx context.Context, grpcAddress, httpAddress string, out io.Writer) error {
	grpcListener, err := net.Listen("tcp", grpcAddress)
	if err != nil {
		return err
	}
	httpListener, err := net.Listen("tcp", httpAddress)
	if err != nil {
		return err
	}
	calls := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage))
	calls.RegisterService(&talkService, struct{}{})
	grpc_health_v1.RegisterHealthServer(calls, health.NewServer())
	reflection.Register(calls)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/websocket", serveWebSocket)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Proto", r.Proto)
		w.Header().Set("X-Peer", r.RemoteAddr)
		_, _ = io.Copy(w, http.MaxBytesReader(w, r.Body, maxMessage))
	})
	pages := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	pages.Protocols.SetHTTP1(true)
	pages.Protocols.SetUnencryptedHTTP2(true)

	failed := make(chan error, 2)
	go func() { failed <- calls.Serve(grpcListener) }()
	go func() { failed <- pages.Serve(httpListener) }()
	fmt.Fprintf(out, "gRPC on %s, HTTP on %s\n", grpcListener.Addr(), httpListener.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		calls.Stop()
		return pages.Close()
	}
}

// serveWebSocket says every message back, of its own kind.
func serveWebSocket(w http.ResponseWriter, r *http.Request) {
	connection, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer connection.CloseNow()
	connection.SetReadLimit(maxMessage)
	for {
		kind, text, err := connection.Read(r.Context())
		var closed websocket.CloseError
		if errors.As(err, &closed) {
			return
		}
		if err != nil {
			return
		}
		if err := connection.Write(r.Context(), kind, text); err != nil {
			return
		}
	}
}
