// Command load is a client like any other: it asks HTTP URLs and TCP line servers, bounded in number or
// until its input ends, and prints as JSON what succeeded and what did not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = `usage:
  load run [flags] TARGET...   ask http://... and tcp://host:port; see load run --help
  load fetch [flags] URL       one HTTP request, body to stdout
  load dial ADDRESS            connect, send stdin, print the first answer or how it ended
  load idle                    do nothing until told to stop
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "run":
		err = run(ctx, os.Args[2:])
	case "fetch":
		err = fetch(ctx, os.Args[2:])
	case "dial":
		err = dial(ctx, os.Args[2:])
	case "idle":
		<-ctx.Done()
	default:
		err = fmt.Errorf("unknown word %q\n%s", os.Args[1], usage)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func fetch(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fetch", flag.ContinueOnError)
	method := flags.String("X", http.MethodGet, "method")
	timeout := flags.Duration("timeout", 10*time.Second, "for the whole request")
	bytes := flags.Int64("bytes", 0, "send a body of so many bytes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("fetch takes one URL")
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	var body io.Reader
	if *bytes > 0 {
		body = io.LimitReader(zeros{}, *bytes)
	}
	request, err := http.NewRequestWithContext(ctx, *method, flags.Arg(0), body)
	if err != nil {
		return err
	}
	request.ContentLength = *bytes
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode >= 400 {
		return fmt.Errorf("status %s", answer.Status)
	}
	return nil
}

// dial sends what stands in stdin, without any protocol, and says what came of it. A connection that is
// refused by a reset may show it at any of the steps.
func dial(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("dial takes one address")
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	answer, err := exchange(ctx, args[0], text)
	switch {
	case len(answer) > 0:
		fmt.Printf("answer: %q\n", answer)
	case errors.Is(err, io.EOF):
		fmt.Println("closed")
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		fmt.Println("reset")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("neither answered nor closed within 10 s")
	default:
		return err
	}
	return nil
}

func exchange(ctx context.Context, address string, text []byte) ([]byte, error) {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := connection.Write(text); err != nil {
		return nil, err
	}
	buffer := make([]byte, 4096)
	length, err := connection.Read(buffer)
	return buffer[:length], err
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
