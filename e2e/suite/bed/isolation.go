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
)

// repair of a file, in which all of this is to be found.
type repair struct {
	file string
	// swaps is what is there, and what is to be there.
	swaps []string
}

var enforcerRepairs = []repair{
	// Sets of IPv6 have another name in the kernel, by which it makes them, but does not call them in its rules: no rule
	// of that family would come about.
	{"pkg/controllers/netpol/policy.go", []string{
		`"--match-set", srcIPSetName,`, `"--match-set", npc.ipSetHandlers[ipFamily].Name(srcIPSetName),`,
		`"--match-set", dstIPSetName,`, `"--match-set", npc.ipSetHandlers[ipFamily].Name(dstIPSetName),`,
	}},
	// For each family it reads the sets of both and writes all of them again: of the one that is written first, as they
	// were before, so that a new pod is in them only if chance had the families in the right order.
	{"pkg/utils/ipset.go", []string{
		"\tipset.sets = parseIPSetSave(ipset, stdout)\n\treturn nil\n",
		"\tipset.sets = parseIPSetSave(ipset, stdout)\n" +
			"\tfor name := range ipset.sets {\n" +
			"\t\tif strings.HasPrefix(name, \"inet6:\") != ipset.isIpv6 {\n" +
			"\t\t\tdelete(ipset.sets, name)\n\t\t}\n\t}\n\treturn nil\n",
	}},
}

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
	fmt.Fprintf(sum, "%s %q", enforcerModule, enforcerRepairs)
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
	for _, repair := range enforcerRepairs {
		if err := repair.in(source); err != nil {
			return "", fmt.Errorf("%s: %w", enforcerModule, err)
		}
	}
	if err := b.GoBuild(ctx, source, filepath.Join(result, "kube-router"), "./cmd/kube-router"); err != nil {
		return "", err
	}
	if err := os.RemoveAll(folder); err != nil {
		return "", err
	}
	return program, os.Rename(result, folder)
}

func (r repair) in(source string) error {
	path := filepath.Join(source, r.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for at := 0; at < len(r.swaps); at += 2 {
		if !bytes.Contains(text, []byte(r.swaps[at])) {
			return fmt.Errorf("%s has no %q any more", r.file, r.swaps[at])
		}
	}
	return replaceFile(path, strings.NewReplacer(r.swaps...).Replace(string(text)))
}
