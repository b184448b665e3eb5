// Command talk is server and client of protocols that stay on one connection for long: gRPC with streams,
// WebSocket, and HTTP/2 without TLS by prior knowledge. It knows nothing of any mesh, and its libraries are
// those that applications use.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = `usage: talk serve [--grpc ADDRESS] [--http ADDRESS]
       talk grpc|websocket|http2 [--count N] [--size BYTES] [--timeout T] TARGET`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "talk:", err)
		os.Exit(1)
	}
}

// Talk is how a client talks.
type Talk struct {
	target string
	count  int
	size   int
}

// Heard is what a client reports: of everything it asked, how much came back right.
type Heard map[string]int

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	if args[0] == "serve" {
		grpc := flags.String("grpc", ":9000", "address of the gRPC server")
		http := flags.String("http", ":8080", "address of the server of HTTP and WebSocket")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return serve(ctx, *grpc, *http, out)
	}
	talks := map[string]func(context.Context, Talk) (Heard, error){"grpc": talkGRPC, "websocket": talkWebSocket, "http2": talkHTTP2}
	talk, known := talks[args[0]]
	if !known {
		return fmt.Errorf("unknown command %q\n%s", args[0], usage)
	}
	count := flags.Int("count", 20, "how often to ask, and how long streams are")
	size := flags.Int("size", 1000, "bytes of a message")
	timeout := flags.Duration("timeout", 20*time.Second, "how long all of it may take")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() != 1 || *count < 1 || *size < 1 {
		return errors.New(usage)
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	heard, err := talk(ctx, Talk{flags.Arg(0), *count, *size})
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(heard)
}

// message is a text of a size, different for each number.
func message(number, size int) string {
	text := make([]byte, size)
	for i := range text {
		text[i] = 'a' + byte((i+number)%26)
	}
	return string(text)
}
