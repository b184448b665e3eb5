package suite

// The shop works as it did without a mesh, over every kind of address, and all of it is post-quantum.

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/kube"
	trellis "trellis.dev/e2e/suite/mesh"
)

// route is one way from the client to a service.
type route struct {
	name string
	http string
	tcp  string
}

// routes to web (HTTP) and orders (TCP): by name, by service address, headless and straight to a pod,
// over both families.
func routes(t *testing.T) []route {
	t.Helper()
	found := []route{
		{"service name", "http://web/echo/hello", "tcp://orders:7000"},
		{"full name", "http://web.shop.svc.cluster.local/echo/hello", "tcp://orders.shop.svc.cluster.local:7000"},
		{"headless", "http://web-headless:8080/echo/hello", "tcp://orders-headless:7000"},
	}
	var web, orders kube.Service
	for name, service := range map[string]*kube.Service{"web": &web, "orders": &orders} {
		if err := cluster.Get(t.Context(), service, "service", "-n", "shop", name); err != nil {
			t.Fatal(err)
		}
	}
	webPod, ordersPod := pod(t, "shop", "web"), pod(t, "shop", "orders")
	for _, family := range []int{4, 6} {
		if webPod.Address(family) == "" {
			// A cluster of one family only.
			t.Logf("pods have no IPv%d address", family)
			continue
		}
		found = append(found,
			route{fmt.Sprintf("service IPv%d", family), "http://" + hostPort(web.Address(family), 80) + "/echo/hello", "tcp://" + hostPort(orders.Address(family), 7000)},
			route{fmt.Sprintf("pod IPv%d", family), "http://" + hostPort(webPod.Address(family), 8080) + "/echo/hello", "tcp://" + hostPort(ordersPod.Address(family), 7000)},
		)
	}
	return found
}

// C-10, T-25, T-27, Z-10: three services and clients in two languages, none of which was changed.
func TestShopWorksUnmodified(t *testing.T) {
	client := pod(t, "shop", "client")
	load := ask(t, client, "--count=20", "http://web/")
	var page struct {
		Items struct {
			Items []struct{ Name string }
		}
		Order string
	}
	if err := json.Unmarshal([]byte(load.Last), &page); err != nil {
		t.Fatalf("%v in %s", err, load.Last)
	}
	if len(page.Items.Items) != 3 || !strings.HasPrefix(page.Order, "OK ") {
		t.Errorf("page %+v", page)
	}
}

// C-01, Z-08, A-09: every kind of address leads through a tunnel.
func TestEveryKindOfAddressIsPostQuantum(t *testing.T) {
	client := pod(t, "shop", "client")
	for _, route := range routes(t) {
		t.Run(route.name, func(t *testing.T) {
			before := evidence(t, client)
			web := ask(t, client, "--count=5", "--fresh", route.http)
			if !strings.HasPrefix(web.Last, "hello from ") {
				t.Errorf("web answered %q", web.Last)
			}
			lines := ask(t, client, "--count=5", "--fresh", route.tcp)
			if lines.Last != "PONG x" {
				t.Errorf("orders answered %q", lines.Last)
			}
			after := evidence(t, client)
			for account, server := range map[string]string{"web": "web", "orders": "orders"} {
				destination := identity("shop", account)
				safe := func(c *trellis.Connections) bool { return c.Destination == destination && c.Class == "pq" }
				new, all := grown(before.Outbound, after.Outbound, safe), trellis.Count(after.Outbound, safe)
				// Requests share connections, also those that are there already; bytes do not.
				if all == 0 || new > 5 || (account == "orders" && new != 5) {
					t.Errorf("%d post-quantum connections to %s, %d of them new; want one at least, and for bytes five", all, server, new)
				}
			}
			if weak := grown(before.Outbound, after.Outbound, func(c *trellis.Connections) bool { return c.Class != "pq" }); weak != 0 {
				t.Errorf("%d connections were weaker", weak)
			}
		})
	}
}

func grown(before, after []trellis.Connections, fits func(*trellis.Connections) bool) int64 {
	return trellis.Count(after, fits) - trellis.Count(before, fits)
}

func TestPythonClientWorksUnmodified(t *testing.T) {
	client := pod(t, "shop", "client")
	text, err := cluster.Exec(t.Context(), "shop", client.Metadata.Name, "python",
		"/usr/bin/python3.11", "-B", "/app/client.py", "5", "http://web/echo/python", "http://catalog:8000/items", "tcp://orders:7000")
	if err != nil {
		t.Fatal(err)
	}
	var result struct {
		Sent, Failed int
		Errors       []string
	}
	if err := json.Unmarshal([]byte(text), &result); err != nil {
		t.Fatal(err)
	}
	if result.Sent != 15 || result.Failed != 0 {
		t.Errorf("%+v", result)
	}
}

// The rows that the server's side counts name who called, by what, and how well it was protected.
func TestServerSideNamesItsCallers(t *testing.T) {
	ask(t, pod(t, "shop", "client"), "--count=3", "--fresh", "tcp://orders:7000")
	rows := evidence(t, pod(t, "shop", "orders")).Inbound
	found := trellis.Count(rows, func(c *trellis.Connections) bool {
		return c.Source == identity("shop", "client") && c.Destination == identity("shop", "orders") &&
			c.Class == "pq" && c.GroupName() == postQuantum && *c.TLS == "1.3" && !c.Resumed &&
			c.ClientSignature() == mldsa65 && c.ServerSignature() == mldsa65 && c.Why() == ""
	})
	if found < 3 {
		t.Errorf("%d such connections in %+v", found, rows)
	}
}

// Bulk in one direction does not end before its last byte.
func TestLargeBodyArrivesWhole(t *testing.T) {
	client := pod(t, "shop", "client")
	const size = 50_000_000
	text, err := cluster.Exec(t.Context(), "shop", client.Metadata.Name, "client",
		"/usr/bin/load", "fetch", "-X", "POST", "--bytes", fmt.Sprint(size), "--timeout", "60s", "http://web/swallow")
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(text) != fmt.Sprint(size) {
		t.Errorf("web counted %s bytes, want %d", text, size)
	}
}
