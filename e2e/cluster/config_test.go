package main

// What servers are told: configuration files, manifest, routes and keys.

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var testPlan = Plan{Name: "test", Slot: 1, Nodes: 2}

// testLayout has a link and a state folder as `up` makes them.
func testLayout(t *testing.T) Layout {
	t.Helper()
	root := t.TempDir()
	layout := Layout{Bin: filepath.Join(root, "bin"), State: filepath.Join(root, "state"), Link: filepath.Join(root, "run", "test")}
	if err := layout.claim(); err != nil {
		t.Fatal(err)
	}
	return layout
}

func TestPodsGetBothFamilies(t *testing.T) {
	for _, node := range testPlan.AllNodes() {
		var list struct {
			Plugins []struct {
				Type string
				IPAM struct {
					Ranges [][]struct{ Subnet netip.Prefix }
					Routes []struct{ Dst netip.Prefix }
				}
			}
		}
		if err := json.Unmarshal([]byte(cniConfig(node)), &list); err != nil {
			t.Fatal(err)
		}
		ipam := list.Plugins[0].IPAM
		if len(ipam.Ranges) != 2 || ipam.Ranges[0][0].Subnet != node.Pods4 || ipam.Ranges[1][0].Subnet != node.Pods6 {
			t.Errorf("node %s hands out %v", node.Name, ipam.Ranges)
		}
		if len(ipam.Routes) != 2 {
			t.Errorf("node %s has routes %v", node.Name, ipam.Routes)
		}
	}
}

func TestNodesAreToldTheirOwn(t *testing.T) {
	node := testPlan.node(2)
	text := kubeletConfig(testPlan, node)
	for _, want := range []string{
		"cgroupRoot: /trellis/test/n2\n", "clusterDNS: [10.97.0.10]\n", "failCgroupV1: false\n", "nodefs.available: 1%,",
		"featureGates: {ClusterTrustBundle: true, ClusterTrustBundleProjection: true, PodCertificateRequest: true}\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("kubelet's configuration lacks %q:\n%s", want, text)
		}
	}
	if args := kubelet(node).Args; !slices.Contains(args, "--node-ip=198.18.1.12,fd00:10:19::12") {
		t.Errorf("kubelet's arguments: %v", args)
	}
	if text := proxyConfig(testPlan); !strings.Contains(text, "clusterCIDR: 10.245.0.0/16,fd00:10:245::/48\n") {
		t.Errorf("kube-proxy's configuration:\n%s", text)
	}
	if text := containerdConfig(); !strings.Contains(text, "restrict_oom_score_adj = true\n") || !strings.Contains(text, `sandbox_image = "localhost/pause:1"`) {
		t.Errorf("containerd's configuration:\n%s", text)
	}
	for what, text := range map[string]string{"kubelet": text, "kube-proxy": proxyConfig(testPlan), "containerd": containerdConfig()} {
		if strings.Contains(text, "%!") {
			t.Errorf("%s: a value is missing:\n%s", what, text)
		}
	}
}

func TestControlPlaneServesBothFamilies(t *testing.T) {
	args := apiServer(testLayout(t), testPlan).Args
	for _, want := range []string{
		"--service-cluster-ip-range=10.97.0.0/16,fd00:10:97::/112", "--advertise-address=198.18.1.11",
		"--feature-gates=ClusterTrustBundle=true,ClusterTrustBundleProjection=true,PodCertificateRequest=true",
		"--audit-log-maxsize=32", "--audit-log-maxbackup=1",
	} {
		if !slices.Contains(args, want) {
			t.Errorf("the API server's arguments lack %s: %v", want, args)
		}
	}
}

func TestNameServiceManifest(t *testing.T) {
	for nodes, replicas := range map[int]string{1: "replicas: 1\n", 2: "replicas: 2\n", 3: "replicas: 2\n"} {
		text, err := corednsManifest(Plan{Name: "test", Slot: 1, Nodes: nodes})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{replicas, `clusterIPs: ["10.97.0.10", "fd00:10:97::a"]`, "image: " + corednsImage, "kubernetes cluster.local in-addr"} {
			if !strings.Contains(text, want) {
				t.Errorf("the manifest for %d nodes lacks %q", nodes, want)
			}
		}
		if strings.Contains(text, "no value") {
			t.Errorf("a value is missing:\n%s", text)
		}
	}
}

func TestEveryNodeReachesEveryOther(t *testing.T) {
	plan := Plan{Name: "test", Nodes: 3}
	for _, self := range plan.AllNodes() {
		lines := strings.Join(nodeAddresses(plan, self), "\n")
		for _, other := range plan.AllNodes() {
			for _, want := range []string{
				"route add " + other.Pods4.String() + " via " + other.IPv4.String(),
				"route add " + other.Pods6.String() + " via " + other.IPv6.String(),
			} {
				if has := strings.Contains(lines, want); has == (self == other) {
					t.Errorf("node %s: has %q: %v", self.Name, want, has)
				}
			}
		}
	}
	links := strings.Join(fabricLinks(plan), "\n")
	for _, port := range []string{"n1", "n2", "n3", "ext", "host"} {
		if !strings.Contains(links, "link set "+port+" master br0") {
			t.Errorf("%s is not on the bridge", port)
		}
	}
	for who, lines := range map[string][]string{"outside": outsideAddresses(plan), "machine": hostAddresses(plan)} {
		text := strings.Join(lines, "\n")
		if want := "route add 198.51.100.0/27 nexthop via 198.18.0.11 nexthop via 198.18.0.12 nexthop via 198.18.0.13"; !strings.Contains(text, want) {
			t.Errorf("the %s lacks %q:\n%s", who, want, text)
		}
	}
}

func TestMachineAddressesAreAvoided(t *testing.T) {
	ranges := Plan{Name: "test"}.Ranges()
	for text, want := range map[string]bool{
		"192.0.2.2/24": false, "127.0.0.1/8": false, "fd00::2/64": false, "fe80::1/64": false,
		"10.244.3.4/24": true, "10.0.0.1/8": true, "fd00:10:18::9/128": true,
	} {
		if got := overlaps(ranges, []net.Addr{address(text)}); got != want {
			t.Errorf("%s overlaps: %v, want %v", text, got, want)
		}
	}
}

type address string

func (a address) Network() string { return "ip+net" }
func (a address) String() string  { return string(a) }

// Each certificate is good for what its holder does with it, and for nothing of another authority.
func TestKeys(t *testing.T) {
	layout := testLayout(t)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, node := range testPlan.AllNodes() {
		if err := writeNode(layout, testPlan, node); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeKeys(layout, testPlan, now); err != nil {
		t.Fatal(err)
	}
	pool := func(name string) *x509.CertPool {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(read(t, layout.PKI(name)))) {
			t.Fatalf("no certificate in %s", name)
		}
		return pool
	}
	leaf := func(certificate, key []byte) *x509.Certificate {
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf
	}
	load := func(certificate, key string) *x509.Certificate {
		return leaf([]byte(read(t, certificate)), []byte(read(t, key)))
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}

	server := load(layout.PKI("apiserver.crt"), layout.PKI("apiserver.key"))
	for _, name := range []string{"198.18.1.11", "fd00:10:19::11", "10.97.0.1", "127.0.0.1", "kubernetes.default.svc"} {
		if _, err := server.Verify(x509.VerifyOptions{Roots: pool("ca.crt"), DNSName: name, CurrentTime: now, KeyUsages: usages}); err != nil {
			t.Errorf("the API server as %s: %v", name, err)
		}
	}
	front := load(layout.PKI("front.crt"), layout.PKI("front.key"))
	if _, err := front.Verify(x509.VerifyOptions{Roots: pool("ca.crt"), CurrentTime: now}); err == nil {
		t.Error("the front proxy's certificate would be a user's too")
	}

	data := regexp.MustCompile(`client-(certificate|key)-data: (\S+)`)
	for name, want := range map[string]string{
		layout.Kubeconfig(): "CN=admin,O=system:masters",
		layout.Node(testPlan.node(2), "lib/kubelet/kubeconfig"):    "CN=system:node:n2,O=system:nodes",
		layout.Node(testPlan.node(2), "lib/kube-proxy/kubeconfig"): "CN=system:kube-proxy",
		layout.path("control", "scheduler.kubeconfig"):             "CN=system:kube-scheduler",
	} {
		text := read(t, name)
		found := data.FindAllStringSubmatch(text, -1)
		if len(found) != 2 || !strings.Contains(text, "server: https://198.18.1.11:6443\n") {
			t.Fatalf("%s:\n%s", name, text)
		}
		certificate, err1 := base64.StdEncoding.DecodeString(found[0][2])
		key, err2 := base64.StdEncoding.DecodeString(found[1][2])
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		user := leaf(certificate, key)
		if got := user.Subject.String(); got != want {
			t.Errorf("%s is for %s, want %s", name, got, want)
		}
		if _, err := user.Verify(x509.VerifyOptions{Roots: pool("ca.crt"), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if block, _ := pem.Decode(key); block.Type != "PRIVATE KEY" {
			t.Errorf("%s holds a %s, want PKCS#8, which all clients read", name, block.Type)
		}
	}
	err := filepath.WalkDir(layout.State, func(path string, entry os.DirEntry, err error) error {
		if info, err := entry.Info(); err == nil && (strings.HasSuffix(path, ".key") || strings.HasSuffix(path, "kubeconfig")) && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(layout.State); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the state folder: %v, %v", info.Mode(), err)
	}
}

// The API server is given the policy that the product ships, word for word.
func TestAuditPolicyIsTheOneThatIsShipped(t *testing.T) {
	layout := testLayout(t)
	if err := writeAuditPolicy(layout, "."); err != nil {
		t.Fatal(err)
	}
	shipped := read(t, filepath.Join("..", "..", "docs", "audit-policy.yaml"))
	given := layout.path("control", "audit-policy.yaml")
	if read(t, given) != shipped || !strings.Contains(shipped, "level: Metadata") {
		t.Errorf("it is not in %s", given)
	}
	for _, level := range []string{"level: Request", "level: RequestResponse"} {
		if strings.Contains(shipped, level) {
			t.Errorf("it has %s: bodies hold the material", level)
		}
	}
	if args := apiServer(layout, testPlan).Args; !slices.Contains(args, "--audit-policy-file="+given) || !slices.Contains(args, "--audit-log-path="+layout.AuditLog()) {
		t.Errorf("the API server's arguments: %v", args)
	}
}
