package main

// The network between nodes: a namespace for each, a bridge in one of its own, an outside, and a link
// by which the machine itself reaches nodes, pods and services.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const bridge = "br0"

func createNetwork(ctx context.Context, plan Plan) error {
	nodes := plan.AllNodes()
	spaces := []string{plan.Fabric(), plan.Outside()}
	for _, node := range nodes {
		spaces = append(spaces, node.Namespace)
	}
	for _, space := range spaces {
		if err := ip(ctx, "", "netns add "+space); err != nil {
			return err
		}
	}
	if err := settings(plan.Fabric(), fabricSettings); err != nil {
		return err
	}
	if err := ip(ctx, plan.Fabric(), fabricLinks(plan)...); err != nil {
		return err
	}
	for _, node := range nodes {
		if err := settings(node.Namespace, nodeSettings); err != nil {
			return err
		}
		if err := ip(ctx, node.Namespace, nodeAddresses(plan, node)...); err != nil {
			return err
		}
	}
	if err := ip(ctx, plan.Outside(), outsideAddresses(plan)...); err != nil {
		return err
	}
	return ip(ctx, "", hostAddresses(plan)...)
}

// Frames that only cross the bridge are nobody's business.
var fabricSettings = map[string]string{
	"net/bridge/bridge-nf-call-iptables":  "0",
	"net/bridge/bridge-nf-call-ip6tables": "0",
	"net/bridge/bridge-nf-call-arptables": "0",
}

// A node routes between its pods and the others; within its own pod bridge its rules must see what a
// pod sends to a Service that ends on the same node. Nobody else can have these addresses, so looking
// for duplicates would only cost a second.
var nodeSettings = map[string]string{
	"net/ipv4/ip_forward":                 "1",
	"net/ipv6/conf/all/forwarding":        "1",
	"net/ipv6/conf/default/accept_dad":    "0",
	"net/bridge/bridge-nf-call-iptables":  "1",
	"net/bridge/bridge-nf-call-ip6tables": "1",
}

func fabricLinks(plan Plan) []string {
	lines := []string{
		"link set lo up",
		"link add " + bridge + " type bridge mcast_snooping 0",
		"link set " + bridge + " up",
		"link add host type veth peer name " + plan.HostLink() + " netns " + fmt.Sprint(os.Getpid()),
		"link add ext type veth peer name eth0 netns " + plan.Outside(),
	}
	ports := []string{"host", "ext"}
	for _, node := range plan.AllNodes() {
		lines = append(lines, "link add "+node.Name+" type veth peer name eth0 netns "+node.Namespace)
		ports = append(ports, node.Name)
	}
	for _, port := range ports {
		lines = append(lines, "link set "+port+" master "+bridge, "link set "+port+" up")
	}
	return lines
}

// nodeAddresses: what leads nowhere else goes to the machine, which does not forward it. Without such a
// route the kernel would refuse a Service's address before the node's rules can translate it.
func nodeAddresses(plan Plan, self Node) []string {
	lines := addresses("eth0", self.IPv4, self.IPv6)
	for _, other := range plan.AllNodes() {
		if other != self {
			lines = append(lines, route(other.Pods4, other.IPv4), route(other.Pods6, other.IPv6))
		}
	}
	return append(lines,
		"route add 0.0.0.0/0 via "+plan.Host4().String(),
		"route add ::/0 via "+plan.Host6().String())
}

func outsideAddresses(plan Plan) []string {
	nodes := plan.AllNodes()
	lines := addresses("eth0", plan.Outside4(), plan.Outside6())
	return append(lines,
		spread(plan.Balancers4(), nodes, func(n Node) netip.Addr { return n.IPv4 }),
		spread(plan.Balancers6(), nodes, func(n Node) netip.Addr { return n.IPv6 }))
}

func hostAddresses(plan Plan) []string {
	nodes := plan.AllNodes()
	lines := addresses(plan.HostLink(), plan.Host4(), plan.Host6())
	for _, node := range nodes {
		lines = append(lines, route(node.Pods4, node.IPv4), route(node.Pods6, node.IPv6))
	}
	return append(lines,
		route(plan.Services4(), nodes[0].IPv4), route(plan.Services6(), nodes[0].IPv6),
		spread(plan.Balancers4(), nodes, func(n Node) netip.Addr { return n.IPv4 }),
		spread(plan.Balancers6(), nodes, func(n Node) netip.Addr { return n.IPv6 }))
}

func addresses(link string, four, six netip.Addr) []string {
	return []string{
		"link set lo up",
		"addr add " + four.String() + "/24 dev " + link,
		"addr add " + six.String() + "/64 dev " + link + " nodad",
		"link set " + link + " up",
	}
}

func route(to netip.Prefix, via netip.Addr) string {
	return "route add " + to.String() + " via " + via.String()
}

func spread(to netip.Prefix, nodes []Node, address func(Node) netip.Addr) string {
	line := "route add " + to.String()
	for _, node := range nodes {
		line += " nexthop via " + address(node).String()
	}
	return line
}

// settings writes kernel settings of a network namespace. Those of a bridge exist only where the kernel
// can filter bridges; where it cannot, there is nothing to set.
func settings(space string, values map[string]string) error {
	return inNetwork(space, func() error {
		for name, value := range values {
			err := writeSetting(name, value)
			if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(name, "net/bridge/") {
				continue
			}
			if err != nil {
				return fmt.Errorf("in namespace %s: %w", space, err)
			}
		}
		return nil
	})
}

// ip runs lines of iproute2 in a namespace, or on the machine itself.
func ip(ctx context.Context, space string, lines ...string) error {
	arguments := []string{"-batch", "-"}
	if space != "" {
		arguments = []string{"-n", space, "-batch", "-"}
	}
	command := exec.CommandContext(ctx, "ip", arguments...)
	command.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		return fmt.Errorf("ip %s with %q: %w: %s", strings.Join(arguments, " "), lines, err, strings.TrimSpace(output.String()))
	}
	return nil
}

// removeNetwork takes away whatever there is of a cluster's network. With a namespace go its links and
// their other ends.
func removeNetwork(ctx context.Context, plan Plan) error {
	var all error
	if _, err := os.Stat(filepath.Join("/sys/class/net", plan.HostLink())); err == nil {
		all = errors.Join(all, ip(ctx, "", "link del "+plan.HostLink()))
	}
	for _, space := range plan.Namespaces() {
		name := filepath.Join(namespaceDir, space)
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := unix.Unmount(name, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			all = errors.Join(all, fmt.Errorf("unmount %s: %w", name, err))
		}
		if err := os.Remove(name); err != nil {
			all = errors.Join(all, err)
		}
	}
	return all
}
