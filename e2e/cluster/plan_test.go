package main

import (
	"net/netip"
	"strings"
	"testing"
)

func TestClustersShareNoAddress(t *testing.T) {
	owner := map[netip.Prefix]int{}
	for slot := range maxSlots {
		for _, r := range (Plan{Name: "x", Slot: slot, Nodes: maxNodes}).Ranges() {
			for other, of := range owner {
				if r.Overlaps(other) {
					t.Errorf("slot %d's %s overlaps slot %d's %s", slot, r, of, other)
				}
			}
			owner[r] = slot
		}
	}
}

func TestAddressesLieInTheirRanges(t *testing.T) {
	for slot := range maxSlots {
		plan := Plan{Name: "x", Slot: slot, Nodes: maxNodes}
		checks := map[netip.Prefix][]netip.Addr{
			plan.Network4():  {plan.Host4(), plan.Outside4()},
			plan.Network6():  {plan.Host6(), plan.Outside6()},
			plan.Services4(): {plan.DNS4(), plan.APIService()},
			plan.Services6(): {plan.DNS6()},
		}
		for _, node := range plan.AllNodes() {
			checks[plan.Network4()] = append(checks[plan.Network4()], node.IPv4)
			checks[plan.Network6()] = append(checks[plan.Network6()], node.IPv6)
			checks[plan.Pods4()] = append(checks[plan.Pods4()], node.Pods4.Addr())
			checks[plan.Pods6()] = append(checks[plan.Pods6()], node.Pods6.Addr())
		}
		seen := map[netip.Addr]bool{}
		for r, addresses := range checks {
			for _, address := range addresses {
				if !r.Contains(address) {
					t.Errorf("slot %d: %s is not in %s", slot, address, r)
				}
				if seen[address] {
					t.Errorf("slot %d: %s is given twice", slot, address)
				}
				seen[address] = true
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"e2e", "a", "a-1", "abcdefghijk"} {
		if err := checkName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if link := (Plan{Name: name}).HostLink(); len(link) > 15 {
			t.Errorf("interface %q has more than 15 characters", link)
		}
	}
	for _, name := range []string{"", "A", "1a", "a-", "a_b", "abcdefghijkl", "../x", "a b"} {
		if err := checkName(name); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

// A cluster's name may end like a part of another's: what they own must differ all the same.
func TestNamesOfNamespacesAreUnique(t *testing.T) {
	owner := map[string]string{}
	for _, name := range []string{"a", "a-n1", "a-fab", "n1"} {
		for _, space := range (Plan{Name: name}).Namespaces() {
			if other, taken := owner[space]; taken {
				t.Errorf("%s belongs to %s and %s", space, name, other)
			}
			owner[space] = name
		}
	}
}

func TestNumberOfNodes(t *testing.T) {
	for text, want := range map[string]int{"1": 1, "2": 2, "3": 3} {
		if got, err := parseNodes(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "4", "-1", "2x", "two", "99999999999999999999"} {
		if _, err := parseNodes(text); err == nil || !strings.Contains(err.Error(), "1 to 3") {
			t.Errorf("%q: error %v", text, err)
		}
	}
}
