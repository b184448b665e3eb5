//go:build smoke

package main

// Services of type LoadBalancer, reached from the machine and from outside.

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// balancers are two Services before each node's pod: one that any node takes traffic for, and one that only
// the pod's own node does.
func balancers(node string) string {
	var text string
	for kind, policy := range map[string]string{"any": "Cluster", "own": "Local"} {
		text += fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s-%s}
spec:
  type: LoadBalancer
  externalTrafficPolicy: %s
  ipFamilyPolicy: RequireDualStack
  selector: {app: server-%[2]s}
  ports: [{port: 80}]
---
`, kind, node, policy)
	}
	return text
}

func balancersAnswer(t *testing.T, image string) {
	record, err := smokeLayout(t).load()
	if err != nil {
		t.Fatal(err)
	}
	probe := filepath.Join(filepath.Dir(image), "probe")
	manifest := ""
	for _, node := range record.Plan.AllNodes() {
		manifest += balancers(node.Name)
	}
	must(t, manifest, "kubectl", "apply", "-f", "-")
	for _, node := range record.Plan.AllNodes() {
		for _, kind := range []string{"any", "own"} {
			service := kind + "-" + node.Name
			var addresses []string
			eventually(t, "addresses of "+service, func() error {
				text := must(t, "", "kubectl", "get", "service", service, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
				if addresses = strings.Fields(text); len(addresses) != 2 {
					return fmt.Errorf("%q", text)
				}
				return nil
			})
			for i, url := range []string{"http://" + addresses[0] + "/", "http://[" + addresses[1] + "]/"} {
				eventually(t, url+" from the machine", func() error { return answers(url, "server-"+node.Name) })
				eventually(t, url+" from outside", func() error {
					output, err := program(t, "", "ext-exec", probe, "ask", url)
					if err != nil {
						return err
					}
					server, client, _ := strings.Cut(strings.TrimSpace(output), " ")
					if server != "server-"+node.Name {
						return fmt.Errorf("answer %q", output)
					}
					// Only what no other node passed on still shows whose it was.
					outside := []string{record.Plan.Outside4().String(), record.Plan.Outside6().String()}[i]
					if kind == "own" && client != outside {
						return fmt.Errorf("asked by %s, want %s", client, outside)
					}
					return nil
				})
			}
		}
	}
	t.Run("an address that cannot be had", func(t *testing.T) {
		must(t, "", "kubectl", "patch", "service", "any-n1", "-p", `{"spec": {"loadBalancerIP": "192.0.2.1"}}`)
		eventually(t, "an event", func() error {
			text := must(t, "", "kubectl", "get", "events", "--field-selector=reason=SyncLoadBalancerFailed", "-o", "jsonpath={.items[*].message}")
			if !strings.Contains(text, "spec.loadBalancerIP 192.0.2.1 cannot be had") {
				return fmt.Errorf("events %q", text)
			}
			return nil
		})
	})
	must(t, manifest, "kubectl", "delete", "-f", "-")
	eventually(t, "routes of single addresses go", func() error {
		routes := must(t, "", "ext-exec", "ip", "route") + must(t, "", "ext-exec", "ip", "-6", "route")
		for _, line := range strings.Split(routes, "\n") {
			if to := strings.TrimSpace(line); strings.HasPrefix(to, "198.51.100.") && !strings.Contains(to, "/27") ||
				strings.HasPrefix(to, "2001:db8:100:") && !strings.Contains(to, "/64") {
				return errors.New(to)
			}
		}
		return nil
	})
}
