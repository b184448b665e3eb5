package main

// What a server says of a request: the same lines for every protocol.

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
)

// Fields are the lines of an answer. What the caller chooses comes last, so that no header's value can be
// taken for one of the others.
type Fields struct {
	Port     int
	Host     string
	URL      string
	Method   string
	Protocol string
	ALPN     string
	From     string
	Headers  http.Header
	// Message is what was sent, where the protocol has no more than that.
	Message string
}

func (f Fields) String() string {
	var text strings.Builder
	line := func(key, value string) { fmt.Fprintf(&text, "%s=%s\n", key, value) }
	line("StatusCode", "200")
	hostname, _ := os.Hostname()
	line("Hostname", hostname)
	line("ServiceVersion", os.Getenv("VERSION"))
	line("ServicePort", fmt.Sprint(f.Port))
	line("Proto", f.Protocol)
	if address, _, err := net.SplitHostPort(f.From); err == nil {
		line("IP", address)
	}
	for _, optional := range [][2]string{{"Alpn", f.ALPN}, {"Method", f.Method}, {"Host", f.Host}, {"URL", f.URL}, {"Echo", f.Message}} {
		if optional[1] != "" {
			line(optional[0], optional[1])
		}
	}
	headers(&text, "RequestHeader", f.Headers)
	return text.String()
}

// headers writes a line for each value of each header.
func headers(to *strings.Builder, key string, all http.Header) {
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		for _, value := range all[name] {
			fmt.Fprintf(to, "%s=%s:%s\n", key, name, value)
		}
	}
}
