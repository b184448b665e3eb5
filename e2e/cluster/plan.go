package main

// Every name and address of one cluster, as a function of its name, its slot and its size. Clusters
// that run at the same time differ in both name and slot, so nothing of theirs can meet.

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
)

const (
	maxNodes = 3
	maxSlots = 8

	apiPort = 6443
)

// Plan is what a cluster looks like before any of it exists.
type Plan struct {
	Name  string `json:"name"`
	Slot  int    `json:"slot"`
	Nodes int    `json:"nodes"`
}

// Node is a network namespace, a mount namespace and a cgroup that together look like a machine.
type Node struct {
	Name      string
	Namespace string
	Cgroup    string
	IPv4      netip.Addr
	IPv6      netip.Addr
	Pods4     netip.Prefix
	Pods6     netip.Prefix
}

// validName keeps names short enough for a network interface, which may have 15 characters.
var validName = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,9}[a-z0-9])?$`)

func checkName(name string) error {
	if validName.MatchString(name) {
		return nil
	}
	return fmt.Errorf("--name %q: want 1 to 11 characters a-z, 0-9 and '-', beginning with a letter and not ending with '-'", name)
}

func parseNodes(text string) (int, error) {
	nodes, err := strconv.Atoi(text)
	if err != nil || nodes < 1 || nodes > maxNodes {
		return 0, fmt.Errorf("want 1 to %d", maxNodes)
	}
	return nodes, nil
}

// AllNodes lists the nodes; the first also runs the control plane.
func (p Plan) AllNodes() []Node {
	nodes := make([]Node, 0, p.Nodes)
	for i := 1; i <= p.Nodes; i++ {
		nodes = append(nodes, p.node(i))
	}
	return nodes
}

func (p Plan) node(i int) Node {
	name := fmt.Sprintf("n%d", i)
	return Node{
		Name:      name,
		Namespace: p.namespace(name),
		Cgroup:    p.Cgroup() + "/" + name,
		IPv4:      p.address4(10 + i),
		IPv6:      p.address6(10 + i),
		Pods4:     prefix("10.%d.%d.0/24", 244+p.Slot, i-1),
		Pods6:     prefix("fd00:10:%d:%d::/64", 244+p.Slot, i-1),
	}
}

// Namespaces lists every network namespace that a cluster of this name may own, whatever its size.
func (p Plan) Namespaces() []string {
	names := []string{p.Fabric(), p.Outside()}
	for i := 1; i <= maxNodes; i++ {
		names = append(names, p.node(i).Namespace)
	}
	return names
}

// Fabric is the namespace of the bridge between the nodes. It is none of theirs: in a node's own
// namespace that node's rules would rewrite frames that only cross the bridge.
func (p Plan) Fabric() string { return p.namespace("fab") }

// Outside is the namespace of a client that is neither node nor pod.
func (p Plan) Outside() string { return p.namespace("ext") }

func (p Plan) namespace(part string) string { return "trellis-" + p.Name + "-" + part }

// HostLink is the interface by which the machine itself reaches the cluster.
func (p Plan) HostLink() string { return "tr-" + p.Name }

// Cgroup holds every process of the cluster, relative to each hierarchy's root.
func (p Plan) Cgroup() string { return "/trellis/" + p.Name }

func (p Plan) Host4() netip.Addr    { return p.address4(1) }
func (p Plan) Host6() netip.Addr    { return p.address6(1) }
func (p Plan) Outside4() netip.Addr { return p.address4(50) }
func (p Plan) Outside6() netip.Addr { return p.address6(50) }

// The nodes' network lies in the range that RFC 2544 sets aside for tests, which no machine uses.
func (p Plan) address4(host int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18, byte(p.Slot), byte(host)})
}

func (p Plan) address6(host int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd00:10:%d::%d", 18+p.Slot, host))
}

func (p Plan) Network4() netip.Prefix  { return prefix("198.18.%d.0/24", p.Slot) }
func (p Plan) Network6() netip.Prefix  { return prefix("fd00:10:%d::/64", 18+p.Slot) }
func (p Plan) Pods4() netip.Prefix     { return prefix("10.%d.0.0/16", 244+p.Slot) }
func (p Plan) Pods6() netip.Prefix     { return prefix("fd00:10:%d::/48", 244+p.Slot) }
func (p Plan) Services4() netip.Prefix { return prefix("10.%d.0.0/16", 96+p.Slot) }
func (p Plan) Services6() netip.Prefix { return prefix("fd00:10:%d::/112", 96+p.Slot) }

// The machine and the outside route these to the nodes; the load balancer hands them out.
func (p Plan) Balancers4() netip.Prefix { return prefix("198.51.100.%d/27", p.Slot*32) }
func (p Plan) Balancers6() netip.Prefix { return prefix("2001:db8:100:%d::/64", p.Slot) }

// DNS4 and DNS6 are the addresses of the cluster's name service.
func (p Plan) DNS4() netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("10.%d.0.10", 96+p.Slot))
}

func (p Plan) DNS6() netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd00:10:%d::a", 96+p.Slot))
}

// APIService is the first address of the service range, which Kubernetes gives to its own API.
func (p Plan) APIService() netip.Addr { return p.Services4().Addr().Next() }

// API is where the API server listens.
func (p Plan) API() string {
	return "https://" + netip.AddrPortFrom(p.address4(11), apiPort).String()
}

// Ranges lists all that must not be in use on the machine already.
func (p Plan) Ranges() []netip.Prefix {
	return []netip.Prefix{
		p.Network4(), p.Network6(), p.Pods4(), p.Pods6(), p.Services4(), p.Services6(), p.Balancers4(), p.Balancers6(),
	}
}

// prefix panics only on a mistake in a format above: slots and nodes are checked before.
func prefix(format string, numbers ...any) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf(format, numbers...))
}
