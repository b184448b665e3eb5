package main

// Who gets which address, and that a load balancer that starts anew takes nothing away.

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var dual = []string{"IPv4", "IPv6"}

// balanced is a Service of type LoadBalancer; order is its age, 0 the oldest.
func balanced(name string, order int, families ...string) *Service {
	var s Service
	s.Metadata.Name, s.Metadata.Namespace, s.Metadata.UID = name, "default", "uid-"+name
	s.Metadata.Created = time.Date(2026, 1, 1, 0, 0, order, 0, time.UTC)
	s.Spec.Type, s.Spec.Families = "LoadBalancer", families
	return &s
}

func (s *Service) wants(address string) *Service {
	s.Spec.Wanted = address
	return s
}

func (s *Service) has(addresses ...string) *Service {
	s.Status.Balancer.Ingress = nil
	for _, address := range addresses {
		s.Status.Balancer.Ingress = append(s.Status.Balancer.Ingress, Ingress{address, "VIP"})
	}
	return s
}

func testAllotment() *Allotment { return &Allotment{pools: testPlan.pools()} }

// given is who has what, and who is refused why.
func given(a *Allotment, services ...*Service) map[string]string {
	result := map[string]string{}
	for _, settled := range a.settle(services) {
		result[settled.Service.Metadata.Name] = strings.Trim(fmt.Sprint(settled.Addresses), "[]")
		if settled.Problem != nil {
			result[settled.Service.Metadata.Name] += settled.Problem.Error()
		}
	}
	return result
}

func TestEachServiceGetsItsFamilies(t *testing.T) {
	got := given(testAllotment(), balanced("b", 1, "IPv6", "IPv4"), balanced("a", 0, dual...), balanced("c", 2, "IPv6"))
	want := map[string]string{
		"a": "198.51.100.33 2001:db8:100:1::1", "b": "2001:db8:100:1::2 198.51.100.34", "c": "2001:db8:100:1::3",
	}
	for name, addresses := range want {
		if got[name] != addresses {
			t.Errorf("%s has %q, want %q", name, got[name], addresses)
		}
	}
}

// Decisions hold before the Services' own status tells of them, and after a start that knows only that.
func TestAddressesStay(t *testing.T) {
	a := testAllotment()
	first := given(a, balanced("a", 0, dual...), balanced("b", 1, dual...))
	if again := given(a, balanced("a", 0, dual...), balanced("b", 1, dual...)); again["a"] != first["a"] || again["b"] != first["b"] {
		t.Errorf("%v became %v", first, again)
	}
	b := balanced("b", 1, dual...).has(strings.Fields(first["b"])...)
	if again := given(testAllotment(), balanced("new", 0, dual...), b); again["b"] != first["b"] || again["new"] == first["b"] {
		t.Errorf("%v became %v", first, again)
	}
}

// Two that claim the same address, as after a restore from a backup: the older keeps it.
func TestNoAddressIsGivenTwice(t *testing.T) {
	got := given(testAllotment(), balanced("young", 1, "IPv4").has("198.51.100.40"), balanced("old", 0, "IPv4").has("198.51.100.40"))
	if got["old"] != "198.51.100.40" || got["young"] == got["old"] {
		t.Errorf("%v", got)
	}
}

// An address that was freed is the last to be given again.
func TestFreedAddressRests(t *testing.T) {
	a := testAllotment()
	given(a, balanced("gone", 0, "IPv4"))
	if got := given(a, balanced("next", 1, "IPv4")); got["next"] != "198.51.100.34" {
		t.Errorf("%v", got)
	}
	seen := map[string]bool{}
	for i := range 30 {
		seen[given(a, balanced(fmt.Sprint("n", i), 2, "IPv4"))[fmt.Sprint("n", i)]] = true
	}
	// Neither the network's own, nor those that want to be asked for.
	if len(seen) != 26 || !seen["198.51.100.33"] || !seen["198.51.100.58"] || seen["198.51.100.32"] || seen["198.51.100.59"] {
		t.Errorf("%d addresses: %v", len(seen), seen)
	}
}

func TestWantedAddress(t *testing.T) {
	a := testAllotment()
	got := given(a, balanced("a", 0, dual...).wants("198.51.100.50"), balanced("b", 1, dual...).wants("2001:db8:100:1::7"))
	if got["a"] != "198.51.100.50 2001:db8:100:1::1" || got["b"] != "198.51.100.33 2001:db8:100:1::7" {
		t.Errorf("%v", got)
	}
	// Who changes its mind gets the other one, and the first is free.
	if got := given(a, balanced("a", 0, dual...).wants("198.51.100.51"), balanced("c", 1, "IPv4").wants("198.51.100.50")); got["a"] != "198.51.100.51 2001:db8:100:1::1" || got["c"] != "198.51.100.50" {
		t.Errorf("%v", got)
	}
	for wanted, why := range map[string]string{
		"198.51.100.51": "is the address of Service default/a",
		"198.51.100.32": "198.51.100.33 to 198.51.100.62 for IPv4",
		"198.51.100.63": "cannot be had", "192.0.2.1": "cannot be had",
		"2001:db8:100:1::1": `of the Service's families ["IPv4"]`,
		"somewhere":         "is no address",
	} {
		got := given(a, balanced("a", 0, dual...).wants("198.51.100.51"), balanced("x", 1, "IPv4").wants(wanted))
		if !strings.HasPrefix(got["x"], "spec.loadBalancerIP ") || !strings.Contains(got["x"], why) {
			t.Errorf("%s: %q, want %q", wanted, got["x"], why)
		}
	}
}

func TestNoAddressLeft(t *testing.T) {
	a := testAllotment()
	var services []*Service
	for i := range 27 {
		services = append(services, balanced(fmt.Sprintf("s%02d", i), i, "IPv4"))
	}
	got := given(a, services...)
	if got["s25"] == "" || !strings.Contains(got["s26"], "all addresses from 198.51.100.33 up to 198.51.100.59 are in use") {
		t.Errorf("%q and %q", got["s25"], got["s26"])
	}
	if got := given(a, services[26].wants("198.51.100.59")); got["s26"] != "198.51.100.59" {
		t.Errorf("one that was asked for: %q", got["s26"])
	}
	services[26].wants("")
	if got := given(a, services[1:]...); got["s26"] != "198.51.100.59" {
		t.Errorf("one that was had: %q", got["s26"])
	}
}

// What is nobody's business of this load balancer it neither gives addresses nor writes to.
func TestOthersAreLeftAlone(t *testing.T) {
	class := "example.org/other"
	other, plain := balanced("other", 0, dual...).has("192.0.2.9"), balanced("plain", 1, dual...).has("198.51.100.33")
	other.Spec.Class, plain.Spec.Type = &class, "ClusterIP"
	for _, settled := range testAllotment().settle([]*Service{other, plain}) {
		if settled.Addresses != nil || settled.differs() {
			t.Errorf("%s: %v, to be written: %v", settled.Service.Metadata.Name, settled.Addresses, settled.differs())
		}
	}
}

func TestStatusIsWrittenWhenItDiffers(t *testing.T) {
	address := netip.MustParseAddr("198.51.100.33")
	fresh := balanced("a", 0, "IPv4")
	settled := Settled{Service: fresh, Addresses: []netip.Addr{address}}
	if !settled.differs() {
		t.Error("a Service without its address is not written")
	}
	fresh.has("198.51.100.33")
	if settled.differs() {
		t.Error("a Service with its address is written again")
	}
	if refused := (Settled{Service: fresh}); !refused.differs() || !slices.Equal(refused.ingress(), []Ingress{}) {
		t.Error("an address that is taken away stays in the status")
	}
}
