package main

// Server and client together, read by the parser of the suite itself.

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/gateway-api/conformance/utils/echo"
)

// serve runs the server with the arguments of the suite's manifest on free ports of the loopback, and
// returns where each of its ports is.
func serve(t *testing.T) func(port int) string {
	t.Helper()
	server, err := parseServer([]string{
		"--tcp=9090", "--port=8080", "--grpc=7070", "--port=8443", "--tls=8443", "--crt=/nowhere.crt", "--key=/nowhere.key",
	})
	if err != nil {
		t.Fatal(err)
	}
	var guard sync.Mutex
	found := map[int]string{}
	server.listen = func(port int) (net.Listener, error) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			guard.Lock()
			found[port] = listener.Addr().String()
			guard.Unlock()
			t.Cleanup(func() { listener.Close() })
		}
		return listener, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	begun := make(chan struct{})
	out := &countdown{left: 4, done: begun}
	go func() { ended <- server.run(ctx, out) }()
	select {
	case <-begun:
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return func(port int) string { return found[port] }
}

// countdown tells when so many lines were written.
type countdown struct {
	left int
	done chan struct{}
}

func (c *countdown) Write(p []byte) (int, error) {
	if c.left--; c.left == 0 {
		close(c.done)
	}
	return len(p), nil
}

func ask(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), "client", args, &out); err != nil {
		t.Fatalf("client %q: %v", args, err)
	}
	return out.String()
}

func TestSuiteReadsWhatTheClientPrints(t *testing.T) {
	at := serve(t)
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	// The arguments are those that the suite gives.
	http := "http://" + at(8080) + "/path?a=b"
	for name, c := range map[string]struct {
		args []string
		want echo.Response
	}{
		"HTTP/1.1": {
			[]string{http, "--method=POST", "-H", "X-Header-Set:set me", "-H", "Host:example.org"},
			echo.Response{Code: "200", Method: "POST", Protocol: "HTTP/1.1", Port: "8080", Host: "example.org", URL: "/path?a=b"},
		},
		"HTTP/2": {
			[]string{"--http2", http, "-H", "X-Header-Set:set me"},
			echo.Response{Code: "200", Method: "GET", Protocol: "HTTP/2.0", Port: "8080", Host: at(8080), URL: "/path?a=b"},
		},
		"HTTPS": {
			[]string{"https://" + at(8443) + "/", "-H", "X-Header-Set:set me"},
			echo.Response{Code: "200", Method: "GET", Protocol: "HTTP/1.1", Port: "8443", Host: at(8443), URL: "/", Alpn: ""},
		},
		"gRPC": {
			[]string{"grpc://" + at(7070), "-H", "X-Header-Set:set me"},
			echo.Response{Code: "200", Protocol: "GRPC", Port: "7070", Host: at(7070), URL: echoMethod},
		},
		"TCP": {
			[]string{"tcp://" + at(9090)},
			echo.Response{Code: "200", Protocol: "TCP", Port: "9090"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := echo.ParseResponse(ask(t, c.args...))
			if got.Hostname != hostname || got.IP != "127.0.0.1" {
				t.Errorf("hostname %q, asked by %q", got.Hostname, got.IP)
			}
			for what, pair := range map[string][2]string{
				"code": {got.Code, c.want.Code}, "method": {got.Method, c.want.Method}, "protocol": {got.Protocol, c.want.Protocol},
				"port": {got.Port, c.want.Port}, "host": {got.Host, c.want.Host}, "URL": {got.URL, c.want.URL},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s %q, want %q", what, pair[0], pair[1])
				}
			}
			if name != "TCP" && got.RequestHeaders.Get("X-Header-Set") != "set me" {
				t.Errorf("request headers %v", got.RequestHeaders)
			}
			if strings.HasPrefix(name, "HTTP") && got.ResponseHeaders.Get("Content-Type") != "text/plain" {
				t.Errorf("response headers %v", got.ResponseHeaders)
			}
		})
	}
}

// The suite takes a batch apart at the empty lines.
func TestBatch(t *testing.T) {
	at := serve(t)
	for _, url := range []string{"http://" + at(8080), "grpc://" + at(7070), "tcp://" + at(9090)} {
		blocks := strings.Split(strings.TrimSpace(ask(t, url, "--count=20")), "\n\n")
		if len(blocks) != 20 {
			t.Errorf("%s: %d answers, want 20", url, len(blocks))
		}
		for i, block := range blocks {
			if got := echo.ParseResponse(block); got.Code != "200" || got.Hostname == "" || !strings.HasPrefix(block, fmt.Sprintf("[%d", i)) {
				t.Errorf("%s: answer %d: %q", url, i, block)
			}
		}
	}
}

// A header cannot make the suite believe that somebody else has answered.
func TestHeadersDoNotShadow(t *testing.T) {
	at := serve(t)
	got := echo.ParseResponse(ask(t, "http://"+at(8080), "-H", "A:Hostname=other", "-H", "B:StatusCode=500", "-H", "C:Host=other"))
	if got.Hostname == "other" || got.Code != "200" || got.Host == "other" {
		t.Errorf("%v", got)
	}
	if values := got.RequestHeaders["A"]; !slices.Equal(values, []string{"Hostname=other"}) {
		t.Errorf("the header itself: %q", values)
	}
}

// Redirects are shown, not followed; the suite looks at them.
func TestRedirectIsNotFollowed(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		_, _ = connection.Read(make([]byte, 4096))
		fmt.Fprint(connection, "HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nContent-Length: 0\r\n\r\n")
	}()
	got := echo.ParseResponse(ask(t, "http://"+listener.Addr().String()))
	if got.Code != "302" || got.ResponseHeaders.Get("Location") != "http://example.org/" {
		t.Errorf("%v", got)
	}
}

// A pod of the suite's is started without any argument.
func TestServerThatIsToldNothing(t *testing.T) {
	server, err := parseServer(nil)
	if err != nil || !slices.Equal(server.HTTP, []int{8080}) {
		t.Errorf("%+v, %v", server, err)
	}
}

func TestMistakes(t *testing.T) {
	for line, want := range map[string]string{
		"server --port=0":                   "1 to 65535",
		"server --port=1 now":               `unknown argument "now"`,
		"server --port=1 --tls=2":           "--tls=2 names no port",
		"client":                            "no URL",
		"client echo":                       "no URL with a host",
		"client ftp://echo":                 `scheme "ftp"`,
		"client http://a http://b":          "two URLs",
		"client http://a --count=0":         "at least 1",
		"client http://a -H x":              "want NAME:VALUE",
		"other":                             `"other" is neither`,
		"client tcp://127.0.0.1:1":          "refused",
		"client grpc://127.0.0.1:1":         "refused",
		"client http://127.0.0.1:1 --msg x": "refused",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		words := strings.Fields(line)
		err := run(ctx, words[0], words[1:], &bytes.Buffer{})
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", line, err, want)
		}
	}
}
