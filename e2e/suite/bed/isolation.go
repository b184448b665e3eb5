package bed

// Other people's kube-router, which enforces NetworkPolicies: the own cluster's network does not.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	enforcerModule = "github.com/cloudnativelabs/kube-router/v2@v2.1.0"
	enforcerSum    = "h1:xWsptKtmZ44L+NjwFKoFAFlVdxCz8fka9A/eYJe95Ok="
	// enforcerRules is where it writes rules that match sets of addresses. Those of IPv6 have another name in the
	// kernel, by which it makes them, but does not call them there: no rule of that family would come about.
	enforcerRules = "pkg/controllers/netpol/policy.go"
)

var enforcerRepair = strings.NewReplacer(
	`"--match-set", srcIPSetName,`, `"--match-set", npc.ipSetHandlers[ipFamily].Name(srcIPSetName),`,
	`"--match-set", dstIPSetName,`, `"--match-set", npc.ipSetHandlers[ipFamily].Name(dstIPSetName),`)

// Enforcer is at work on every node of the own cluster.
type Enforcer struct {
	bed   *Bed
	nodes []*exec.Cmd
	said  []*bytes.Buffer
}

// Enforce begins to enforce the cluster's NetworkPolicies.
func (b *Bed) Enforce(ctx context.Context) (*Enforcer, error) {
	program, err := b.enforcerProgram(ctx)
	if err != nil {
		return nil, err
	}
	var services struct{ Spec struct{ CIDRs []string } }
	if err := b.Kube.Get(ctx, &services, "servicecidr", "kubernetes"); err != nil {
		return nil, err
	}
	e := &Enforcer{bed: b}
	for _, node := range b.Nodes {
		// Not bound to the context: it is ended in good order.
		command := exec.Command(b.program(), "node-exec", node, program, "--run-firewall=true", "--run-router=false", "--run-service-proxy=false",
			"--enable-ipv6=true", "--kubeconfig="+b.Kubeconfig, "--hostname-override="+node, "--health-port=0", "--metrics-port=0",
			"--service-cluster-ip-range="+strings.Join(services.Spec.CIDRs, ","))
		said := &bytes.Buffer{}
		command.Stdout, command.Stderr = said, said
		if err := command.Start(); err != nil {
			return nil, errors.Join(err, e.End())
		}
		e.nodes, e.said = append(e.nodes, command), append(e.said, said)
	}
	return e, nil
}

// End leaves the nodes' rules as they were before.
func (e *Enforcer) End() error {
	var all error
	for _, command := range e.nodes {
		all = errors.Join(all, command.Process.Signal(syscall.SIGTERM))
	}
	for at, command := range e.nodes {
		late := time.AfterFunc(20*time.Second, func() { _ = command.Process.Kill() })
		// How it ends says nothing of its work.
		_ = command.Wait()
		late.Stop()
		sweeping, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := e.bed.output(sweeping, e.bed.program(), "node-exec", e.bed.Nodes[at], "sh", "-c", sweep)
		cancel()
		all = errors.Join(all, err)
	}
	e.nodes = nil
	return all
}

// Said is the end of what it wrote on each node; to be read when it has ended.
func (e *Enforcer) Said() string {
	var all strings.Builder
	for at, said := range e.said {
		text := said.Bytes()
		fmt.Fprintf(&all, "%s:\n%s", e.bed.Nodes[at], text[max(0, len(text)-3000):])
	}
	return all.String()
}

// sweep takes away the chains, the rules that lead to them, and the sets, of both families. What it does itself when
// it is asked to clean up (--cleanup-config) leaves them all.
const sweep = `set -e
for tables in iptables ip6tables; do
  $tables-save -t filter | grep -vE 'KUBE-ROUTER-|KUBE-POD-FW-|KUBE-NWPLCY-' | $tables-restore -T filter
done
ipset list -name | grep -E '^(inet6:)?KUBE-(SRC|DST)-' | while read -r set; do ipset destroy "$set"; done
! { iptables-save; ip6tables-save; ipset list -name; } | grep -E 'KUBE-(ROUTER|POD-FW|NWPLCY|SRC|DST)-'
`

// enforcerProgram builds it, once.
func (b *Bed) enforcerProgram(ctx context.Context) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, enforcerModule, enforcerRepair.Replace(`"--match-set", srcIPSetName, "--match-set", dstIPSetName,`))
	folder := filepath.Join(b.cache, "kube-router-"+hex.EncodeToString(sum.Sum(nil)[:6]))
	program := filepath.Join(folder, "kube-router")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	building, err := os.MkdirTemp(b.cache, "kube-router-building-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(building)
	source, result := filepath.Join(building, "source"), filepath.Join(building, "result")
	if err := b.moduleSource(ctx, building, source, enforcerModule, enforcerSum); err != nil {
		return "", err
	}
	rules, err := os.ReadFile(filepath.Join(source, enforcerRules))
	if err != nil {
		return "", err
	}
	repaired := enforcerRepair.Replace(string(rules))
	if repaired == string(rules) {
		return "", fmt.Errorf("%s: %s writes its rules otherwise than was known", enforcerModule, enforcerRules)
	}
	if err := replaceFile(filepath.Join(source, enforcerRules), repaired); err != nil {
		return "", err
	}
	if err := b.GoBuild(ctx, source, filepath.Join(result, "kube-router"), "./cmd/kube-router"); err != nil {
		return "", err
	}
	if err := os.RemoveAll(folder); err != nil {
		return "", err
	}
	return program, os.Rename(result, folder)
}
