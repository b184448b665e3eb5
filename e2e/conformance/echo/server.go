package main

// The server: HTTP in both versions, HTTPS, gRPC and TCP, on as many ports as it is told.

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const defaultPort = 8080

// Server is what the command line asks for.
type Server struct {
	HTTP, TLS, GRPC, TCP []int
	certificate, key     string
	// listen opens a port, which a test chooses otherwise.
	listen func(port int) (net.Listener, error)
}

// ports is a flag that may be repeated.
type ports []int

func (p *ports) String() string { return "" }

func (p *ports) Set(text string) error {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return errors.New("want a port, 1 to 65535")
	}
	*p = append(*p, int(port))
	return nil
}

func parseServer(args []string) (*Server, error) {
	s := &Server{listen: func(port int) (net.Listener, error) { return net.Listen("tcp", fmt.Sprintf(":%d", port)) }}
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	flags.Var((*ports)(&s.HTTP), "port", "serve HTTP/1.1 and HTTP/2 on this port, 8080 if no port at all is named; repeatable, as are the other ports")
	flags.Var((*ports)(&s.TLS), "tls", "of these ports, serve this one over TLS")
	flags.Var((*ports)(&s.GRPC), "grpc", "serve gRPC on this port")
	flags.Var((*ports)(&s.TCP), "tcp", "answer lines of text on this port")
	flags.StringVar(&s.certificate, "crt", "", "PEM file of the certificate for TLS; where there is none, the server makes one")
	flags.StringVar(&s.key, "key", "", "PEM file of its key")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("server: unknown argument %q: every setting is a flag", flags.Arg(0))
	}
	for _, port := range s.TLS {
		if !slices.Contains(s.HTTP, port) {
			return nil, fmt.Errorf("server: --tls=%d names no port of --port; add --port=%d", port, port)
		}
	}
	if len(s.HTTP)+len(s.GRPC)+len(s.TCP) == 0 {
		// Some of the suite's pods are only asked from, and are told nothing.
		s.HTTP = []int{defaultPort}
	}
	return s, nil
}

// run serves until the context ends or a port fails.
func (s *Server) run(ctx context.Context, out io.Writer) error {
	failed := make(chan error, len(s.HTTP)+len(s.GRPC)+len(s.TCP))
	begin := func(ports []int, serve func(net.Listener, int) error) error {
		for _, port := range ports {
			listener, err := s.listen(port)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "listening on %s\n", listener.Addr())
			go func() { failed <- serve(listener, port) }()
		}
		return nil
	}
	if err := errors.Join(begin(s.HTTP, s.serveHTTP), begin(s.GRPC, serveGRPC), begin(s.TCP, serveTCP)); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (s *Server) serveHTTP(listener net.Listener, port int) error {
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fields := Fields{
			Port: port, Host: r.Host, URL: r.RequestURI, Method: r.Method, Protocol: r.Proto, From: r.RemoteAddr, Headers: r.Header,
		}
		if r.TLS != nil {
			fields.ALPN = r.TLS.NegotiatedProtocol
		}
		_, _ = io.WriteString(w, fields.String())
	})
	if !slices.Contains(s.TLS, port) {
		server.Protocols.SetUnencryptedHTTP2(true)
		return server.Serve(listener)
	}
	server.Protocols.SetHTTP2(true)
	certificate, err := tls.LoadX509KeyPair(s.certificate, s.key)
	if errors.Is(err, fs.ErrNotExist) {
		certificate, err = ownCertificate()
	}
	if err != nil {
		return fmt.Errorf("server: --crt=%s --key=%s: %w", s.certificate, s.key, err)
	}
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	return server.ServeTLS(listener, "", "")
}

// ownCertificate is for clients that do not ask whose it is.
func ownCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "echo"}, DNSNames: []string{"echo"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
	}
	data, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{data}, PrivateKey: key}, err
}

// serveTCP answers each line with the fields and an empty line.
func serveTCP(listener net.Listener, port int) error {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			lines := bufio.NewScanner(connection)
			for lines.Scan() {
				fields := Fields{
					Port: port, Protocol: "TCP", From: connection.RemoteAddr().String(), Message: strings.TrimSpace(lines.Text()),
				}
				if _, err := io.WriteString(connection, fields.String()+"\n"); err != nil {
					return
				}
			}
		}()
	}
}
