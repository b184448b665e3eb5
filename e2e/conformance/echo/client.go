package main

// The client: asks a server, and prints each answer as a block of lines with an empty line after it.

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxBody is far more than an answer of the server's.
const maxBody = 1 << 20

// Client is what the command line asks for.
type Client struct {
	url     *url.URL
	method  string
	message string
	count   int
	timeout time.Duration
	headers http.Header
	http2   bool
}

// header is a flag of the form name:value, which may be repeated.
type header http.Header

func (h header) String() string { return "" }

func (h header) Set(text string) error {
	name, value, found := strings.Cut(text, ":")
	if !found || name == "" {
		return errors.New("want NAME:VALUE")
	}
	http.Header(h).Add(name, strings.TrimSpace(value))
	return nil
}

func parseClient(args []string) (*Client, error) {
	c := &Client{headers: http.Header{}}
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.StringVar(&c.method, "method", http.MethodGet, "HTTP method")
	flags.StringVar(&c.message, "msg", "hello", "text that is sent over gRPC and TCP")
	flags.IntVar(&c.count, "count", 1, "how often to ask")
	flags.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long an answer may take")
	flags.BoolVar(&c.http2, "http2", false, "HTTP/2 with prior knowledge, for http://")
	flags.Var(header(c.headers), "H", "a header, NAME:VALUE; repeatable")
	var target string
	for rest := args; ; {
		// The URL may stand before, between and after the flags.
		if err := flags.Parse(rest); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			break
		}
		if target != "" {
			return nil, fmt.Errorf("client: two URLs, %s and %s; give one", target, flags.Arg(0))
		}
		target, rest = flags.Arg(0), flags.Args()[1:]
	}
	if c.count < 1 {
		return nil, fmt.Errorf("client: --count=%d: want at least 1", c.count)
	}
	var err error
	if c.url, err = url.Parse(target); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if c.url.Host == "" {
		return nil, fmt.Errorf("client: %q is no URL with a host; write http://HOST/, https://, grpc:// or tcp://", target)
	}
	return c, nil
}

func (c *Client) run(ctx context.Context, out io.Writer) error {
	number := 0
	answer := func(lines string) error {
		for line := range strings.Lines(lines) {
			kind, line, _ := strings.Cut(line, "\t")
			if _, err := fmt.Fprintf(out, "[%d%s] %s", number, kind, line); err != nil {
				return err
			}
		}
		number++
		_, err := fmt.Fprintln(out)
		return err
	}
	switch c.url.Scheme {
	case "http", "https":
		return c.callHTTP(ctx, answer)
	case "grpc":
		return c.callGRPC(ctx, answer)
	case "tcp":
		return c.callTCP(ctx, answer)
	}
	return fmt.Errorf("client: scheme %q of %s: want http, https, grpc or tcp", c.url.Scheme, c.url)
}

// bodyLines marks what the server said, in contrast to what the client saw itself.
func bodyLines(text string) string {
	var lines strings.Builder
	for line := range strings.Lines(text) {
		fmt.Fprintf(&lines, " body\t%s\n", strings.TrimRight(line, "\r\n"))
	}
	return lines.String()
}

func (c *Client) callHTTP(ctx context.Context, answer func(string) error) error {
	transport := &http.Transport{
		Proxy: nil,
		// Nobody here knows whose certificate it should be.
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
		Protocols:          new(http.Protocols),
		DisableCompression: true,
	}
	transport.Protocols.SetHTTP1(!c.http2)
	transport.Protocols.SetHTTP2(c.http2)
	transport.Protocols.SetUnencryptedHTTP2(c.http2)
	client := http.Client{
		Transport: transport, Timeout: c.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for range c.count {
		request, err := http.NewRequestWithContext(ctx, c.method, c.url.String(), nil)
		if err != nil {
			return err
		}
		request.Header = c.headers.Clone()
		if host := request.Header.Get("Host"); host != "" {
			request.Host = host
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
		response.Body.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", c.url, err)
		}
		var lines strings.Builder
		fmt.Fprintf(&lines, "StatusCode=%d\n", response.StatusCode)
		headers(&lines, "ResponseHeader", response.Header)
		var seen strings.Builder
		for line := range strings.Lines(lines.String()) {
			seen.WriteString("\t" + line)
		}
		if err := answer(seen.String() + bodyLines(string(body))); err != nil {
			return err
		}
	}
	return nil
}

// callTCP sends a line and reads to the empty line after the answer, over one connection.
func (c *Client) callTCP(ctx context.Context, answer func(string) error) error {
	dialer := net.Dialer{Timeout: c.timeout}
	connection, err := dialer.DialContext(ctx, "tcp", withPort(c.url.Host, "9090"))
	if err != nil {
		return err
	}
	defer connection.Close()
	lines := bufio.NewReader(connection)
	for range c.count {
		if err := connection.SetDeadline(time.Now().Add(c.timeout)); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(connection, c.message); err != nil {
			return err
		}
		var text strings.Builder
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return fmt.Errorf("%s: answer: %w", c.url, err)
			}
			if line == "\n" {
				break
			}
			text.WriteString(line)
		}
		if err := answer(bodyLines(text.String())); err != nil {
			return err
		}
	}
	return nil
}

func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}
