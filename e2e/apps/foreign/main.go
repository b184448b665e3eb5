// Foreign is a client of another make, for tests: it opens one mutually authenticated TLS connection with
// nothing but Go's own crypto/tls, which offers hybrid key exchange and cannot verify ML-DSA, and says what
// was negotiated. With -through it also opens a tunnel on it, by Go's own HTTP/2, and says the first line
// of whoever is at its end.
package main

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// The preface of HTTP/2 and an empty SETTINGS frame: a server that lets us in answers with its own.
const hello = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

func main() {
	address := flag.String("address", "", "where the server listens, HOST:PORT")
	server := flag.String("server", "", "who must answer, spiffe://...")
	certificate := flag.String("certificate", "", "the own certificate, DER")
	key := flag.String("key", "", "its key, PKCS#8 DER")
	credentials := flag.String("credentials", "", "both as the kubelet writes them, PEM, instead of these two")
	bundle := flag.String("bundle", "", "the trust bundle, PEM")
	through := flag.String("through", "", "the application at the tunnel's end, HOST:PORT")
	flag.Parse()
	own, err := identity(*certificate, *key)
	if *credentials != "" {
		own, err = tls.LoadX509KeyPair(*credentials, *credentials)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	said, err := connect(*address, *server, *bundle, *through, own)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(said)
}

func connect(address, server, bundle, through string, own tls.Certificate) (string, error) {
	roots, err := anchors(bundle)
	if err != nil {
		return "", err
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"h2"},
		Certificates: []tls.Certificate{own},
		// A SPIFFE ID is no host name: who answers is judged below.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			return judge(state.PeerCertificates, roots, server)
		},
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	connection, err := tls.DialWithDialer(dialer, "tcp", address, config)
	if err != nil {
		return "", fmt.Errorf("connecting to %s: %w", address, err)
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	state := connection.ConnectionState()
	negotiated := fmt.Sprintf("%s %s %s", tls.VersionName(state.Version), state.CurveID, state.PeerCertificates[0].PublicKeyAlgorithm)
	if through != "" {
		line, err := tunnel(connection, through)
		return negotiated + "\n" + line, err
	}
	if _, err := io.WriteString(connection, hello); err != nil {
		return "", fmt.Errorf("after the handshake: %w", err)
	}
	if _, err := io.ReadFull(connection, make([]byte, 9)); err != nil {
		return "", fmt.Errorf("the server did not let us in: %w", err)
	}
	return negotiated, nil
}

// tunnel asks for an application on the connection, and returns the first line that it says.
func tunnel(connection *tls.Conn, application string) (string, error) {
	transport := &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return connection, nil },
	}
	// What we say is nothing, and we are not done until the answer was read.
	silent, done := io.Pipe()
	defer done.Close()
	answer, err := transport.RoundTrip(&http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: application}, Host: application,
		Header: http.Header{}, Body: silent, ContentLength: -1,
	})
	if err != nil {
		return "", fmt.Errorf("asking for %s: %w", application, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("asking for %s: %s", application, answer.Status)
	}
	line, err := bufio.NewReader(answer.Body).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("what %s says: %w", application, err)
	}
	return strings.TrimSpace(line), nil
}

func identity(certificate, key string) (tls.Certificate, error) {
	der, err := os.ReadFile(certificate)
	if err != nil {
		return tls.Certificate{}, err
	}
	secret, err := os.ReadFile(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	private, err := x509.ParsePKCS8PrivateKey(secret)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: %w", key, err)
	}
	signer, ok := private.(*ecdsa.PrivateKey)
	if !ok {
		return tls.Certificate{}, fmt.Errorf("%s holds no ECDSA key", key)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: crypto.Signer(signer)}, nil
}

// anchors are those of the bundle that Go can make use of.
func anchors(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool, found := x509.NewCertPool(), false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		anchor, err := x509.ParseCertificate(block.Bytes)
		if err != nil || anchor.PublicKeyAlgorithm != x509.ECDSA {
			continue
		}
		pool.AddCert(anchor)
		found = true
	}
	if !found {
		return nil, fmt.Errorf("%s holds no anchor with an ECDSA key", path)
	}
	return pool, nil
}

func judge(chain []*x509.Certificate, roots *x509.CertPool, server string) error {
	if len(chain) != 1 {
		return fmt.Errorf("the server sent %d certificates", len(chain))
	}
	options := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if _, err := chain[0].Verify(options); err != nil {
		return err
	}
	if len(chain[0].URIs) != 1 {
		return errors.New("the server's certificate does not carry exactly one URI")
	}
	if found := chain[0].URIs[0].String(); found != server {
		return fmt.Errorf("%s answered instead of %s", found, server)
	}
	return nil
}
