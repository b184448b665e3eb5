// Command orders takes orders over a line protocol in which the server speaks first.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

func main() {
	listen := os.Getenv("LISTEN")
	if listen == "" {
		listen = ":7000"
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		<-ctx.Done()
		listener.Close()
	}()
	log.Printf("listening on %s", listen)

	var taken atomic.Int64
	var open sync.WaitGroup
	for {
		connection, err := listener.Accept()
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		open.Go(func() { serve(ctx, connection, &taken) })
	}
	open.Wait()
}

func serve(ctx context.Context, connection net.Conn, taken *atomic.Int64) {
	defer connection.Close()
	unhook := context.AfterFunc(ctx, func() { connection.Close() })
	defer unhook()
	host, _ := os.Hostname()
	if _, err := fmt.Fprintf(connection, "220 orders on %s\n", host); err != nil {
		return
	}
	lines := bufio.NewScanner(connection)
	for lines.Scan() {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		answer := "ERR unknown word " + verb
		switch verb {
		case "ORDER":
			answer = fmt.Sprintf("OK %d %s", taken.Add(1), rest)
		case "PING":
			answer = "PONG " + rest
		case "QUIT":
			return
		}
		if _, err := fmt.Fprintln(connection, answer); err != nil {
			return
		}
	}
}
