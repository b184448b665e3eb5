// Command echo is server and client of the mesh tests of the Gateway API: it stands for the image
// echo-advanced, whose source is not to be had as a module that builds. The server says what it was asked,
// the client prints that line by line, in the words that the suite reads. Which of both it is, its name says.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, filepath.Base(os.Args[0]), os.Args[1:], os.Stdout)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name string, args []string, out io.Writer) error {
	if name != "server" && name != "client" && len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "server":
		server, err := parseServer(args)
		if err != nil {
			return err
		}
		return server.run(ctx, out)
	case "client":
		client, err := parseClient(args)
		if err != nil {
			return err
		}
		return client.run(ctx, out)
	}
	return fmt.Errorf("%q is neither server nor client: call it by one of these names, or say it first", name)
}
