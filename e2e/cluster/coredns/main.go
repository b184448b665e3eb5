// coredns is CoreDNS with only the plugins that a cluster's own name service needs, and those that the
// conformance suite of the Gateway API runs a second one with.
package main

import (
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/whoami"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
)

func main() {
	// The order in which a query passes the plugins; a Corefile may name no others.
	dnsserver.Directives = []string{"health", "ready", "log", "errors", "loadbalance", "cache", "kubernetes", "forward", "whoami"}
	coremain.Run()
}
