package main

// Which Service of type LoadBalancer has which addresses: decided from what all Services say, with no
// memory of events, so that a list read anew leads to the same answer.

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Service is what the load balancer reads of one.
type Service struct {
	Metadata struct {
		Name      string    `json:"name"`
		Namespace string    `json:"namespace"`
		UID       string    `json:"uid"`
		Created   time.Time `json:"creationTimestamp"`
	} `json:"metadata"`
	Spec struct {
		Type     string   `json:"type"`
		Families []string `json:"ipFamilies"`
		// Class names a load balancer of somebody else.
		Class *string `json:"loadBalancerClass"`
		// Wanted is the one address, of either family, that the Service asks for.
		Wanted string `json:"loadBalancerIP"`
		Policy string `json:"externalTrafficPolicy"`
		Health int    `json:"healthCheckNodePort"`
	} `json:"spec"`
	Status struct {
		Balancer struct {
			Ingress []Ingress `json:"ingress"`
		} `json:"loadBalancer"`
	} `json:"status"`
}

// Ingress is one address by which a Service is reached from outside.
type Ingress struct {
	IP string `json:"ip"`
	// Mode VIP: the address is the packet's destination until a node's rules translate it, so that pods
	// need not go outside to reach it.
	Mode string `json:"ipMode"`
}

func (s *Service) path() string {
	return "/api/v1/namespaces/" + s.Metadata.Namespace + "/services/" + s.Metadata.Name
}

func (s *Service) key() string { return s.Metadata.Namespace + "/" + s.Metadata.Name }

// ours says whether the cluster's load balancer serves it.
func (s *Service) ours() bool { return s.Spec.Type == "LoadBalancer" && s.Spec.Class == nil }

// local: only nodes that run one of its pods take its traffic.
func (s *Service) local() bool { return s.Spec.Policy == "Local" && s.Spec.Health != 0 }

// Pool is the addresses of one family that may be handed out, both ends included.
type Pool struct {
	Family      string
	First, Last netip.Addr
	// Asked is the first of those at the end that only get who asks for them, so that one may count on it.
	Asked netip.Addr
	// next is where the search for a free one begins. An address rests as long as it can before somebody
	// else gets it: whoever still talks to it meets nobody.
	next netip.Addr
}

// pools of a cluster: the network's own address is not handed out, nor is the one that means all of it.
func (p Plan) pools() []*Pool {
	four, six := p.Balancers4().Addr(), p.Balancers6().Addr()
	const size, asked = 1<<(32-27) - 2, 4
	pool := func(family string, network netip.Addr) *Pool {
		p := &Pool{Family: family, First: network.Next()}
		p.next, p.Last = p.First, p.First
		for i := 1; i < size; i++ {
			p.Last = p.Last.Next()
			if i == size-asked {
				p.Asked = p.Last
			}
		}
		return p
	}
	return []*Pool{pool("IPv4", four), pool("IPv6", six)}
}

func (p *Pool) contains(address netip.Addr) bool {
	return address.BitLen() == p.First.BitLen() && p.First.Compare(address) <= 0 && address.Compare(p.Last) <= 0
}

// take finds an address that is free, if there is one.
func (p *Pool) take(taken map[netip.Addr]string) (netip.Addr, bool) {
	for address, begin := p.next, true; begin || address != p.next; begin = false {
		following := p.after(address)
		if _, used := taken[address]; !used {
			p.next = following
			return address, true
		}
		address = following
	}
	return netip.Addr{}, false
}

func (p *Pool) after(address netip.Addr) netip.Addr {
	if address = address.Next(); address == p.Asked {
		return p.First
	}
	return address
}

// Allotment remembers what was given to whom until the Services' own status tells it.
type Allotment struct {
	pools []*Pool
	held  map[string][]netip.Addr
}

// Settled is what one Service shall have; Problem says why it lacks an address.
type Settled struct {
	Service   *Service
	Addresses []netip.Addr
	Problem   error
}

// settle decides for all Services at once. What one has it keeps while it may; the older comes first.
func (a *Allotment) settle(services []*Service) []Settled {
	slices.SortFunc(services, func(x, y *Service) int {
		return cmp.Or(x.Metadata.Created.Compare(y.Metadata.Created), cmp.Compare(x.key(), y.key()))
	})
	taken := map[netip.Addr]string{}
	kept := map[string]map[string]netip.Addr{}
	for _, service := range services {
		if service.ours() {
			kept[service.Metadata.UID] = a.keep(service, taken)
		}
	}
	held := map[string][]netip.Addr{}
	var result []Settled
	for _, service := range services {
		settled := Settled{Service: service}
		if service.ours() {
			settled.Addresses, settled.Problem = a.complete(service, kept[service.Metadata.UID], taken)
			held[service.Metadata.UID] = settled.Addresses
		}
		result = append(result, settled)
	}
	a.held = held
	return result
}

// keep finds which of the addresses that a Service has it may still have, one a family.
func (a *Allotment) keep(service *Service, taken map[netip.Addr]string) map[string]netip.Addr {
	had := slices.Clone(a.held[service.Metadata.UID])
	for _, ingress := range service.Status.Balancer.Ingress {
		if address, err := netip.ParseAddr(ingress.IP); err == nil {
			had = append(had, address)
		}
	}
	wanted, _ := netip.ParseAddr(service.Spec.Wanted)
	kept := map[string]netip.Addr{}
	for _, pool := range a.pools {
		if !slices.Contains(service.Spec.Families, pool.Family) {
			continue
		}
		for _, address := range had {
			_, used := taken[address]
			other := wanted.IsValid() && pool.contains(wanted) && address != wanted
			if !pool.contains(address) || used || other {
				continue
			}
			taken[address] = service.key()
			kept[pool.Family] = address
			break
		}
	}
	return kept
}

// complete gives a Service what it lacks, in the order of its families.
func (a *Allotment) complete(service *Service, kept map[string]netip.Addr, taken map[netip.Addr]string) ([]netip.Addr, error) {
	wanted, err := a.wanted(service)
	if err != nil {
		return nil, err
	}
	var addresses []netip.Addr
	for _, family := range service.Spec.Families {
		i := slices.IndexFunc(a.pools, func(p *Pool) bool { return p.Family == family })
		if i < 0 {
			continue
		}
		pool := a.pools[i]
		address, has := kept[family]
		switch {
		case has:
		case wanted.IsValid() && pool.contains(wanted):
			if by, used := taken[wanted]; used {
				return nil, fmt.Errorf("spec.loadBalancerIP %s is the address of Service %s; ask for another one, or for none", wanted, by)
			}
			address = wanted
		default:
			if address, has = pool.take(taken); !has {
				return nil, fmt.Errorf("all addresses from %s up to %s are in use; delete a Service of type LoadBalancer", pool.First, pool.Asked)
			}
		}
		taken[address] = service.key()
		addresses = append(addresses, address)
	}
	return addresses, nil
}

// wanted reads the address that a Service asks for, which must be one that it can have.
func (a *Allotment) wanted(service *Service) (netip.Addr, error) {
	text := service.Spec.Wanted
	if text == "" {
		return netip.Addr{}, nil
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("spec.loadBalancerIP %q is no address; write one, or leave it out", text)
	}
	var ranges string
	for _, pool := range a.pools {
		if pool.contains(address) && slices.Contains(service.Spec.Families, pool.Family) {
			return address, nil
		}
		ranges += fmt.Sprintf(", %s to %s for %s", pool.First, pool.Last, pool.Family)
	}
	return netip.Addr{}, fmt.Errorf("spec.loadBalancerIP %s cannot be had; of the Service's families %q there are%s", text, service.Spec.Families, ranges[1:])
}

// differs says whether a Service's status has to be written.
func (s Settled) differs() bool {
	return s.Service.ours() && !slices.Equal(s.Service.Status.Balancer.Ingress, s.ingress())
}

func (s Settled) ingress() []Ingress {
	ingress := []Ingress{}
	for _, address := range s.Addresses {
		ingress = append(ingress, Ingress{IP: address.String(), Mode: "VIP"})
	}
	return ingress
}
