package suite

// Certificates as the mesh issues, swaps and keeps them.

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
)

// mldsa65OID as FIPS 204 certificates carry it.
var mldsa65OID = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}

// certificate is as much of X.509 as Go does not tell about a key that it does not know.
type certificate struct {
	TBS struct {
		Raw        asn1.RawContent
		Version    int `asn1:"optional,explicit,default:0,tag:0"`
		Serial     asn1.RawValue
		Signature  struct{ Algorithm asn1.ObjectIdentifier }
		Issuer     asn1.RawValue
		Validity   asn1.RawValue
		Subject    asn1.RawValue
		PublicKey  publicKey
		Extensions asn1.RawValue `asn1:"optional,explicit,tag:3"`
	}
	Signature struct{ Algorithm asn1.ObjectIdentifier }
	Value     asn1.BitString
}

type publicKey struct {
	Algorithm struct{ Algorithm asn1.ObjectIdentifier }
	Key       asn1.BitString
}

// C-06, Z-07, Z-14, Z-15, A-02, A-03, A-04: what a server really presents in a handshake.
func TestLeafIsAsPromised(t *testing.T) {
	presented := attempts(t, pod(t, "shop", "orders"))["control"].Certificate
	leaf, err := x509.ParseCertificate(presented)
	if err != nil {
		t.Fatal(err)
	}
	var raw certificate
	if _, err := asn1.Unmarshal(presented, &raw); err != nil {
		t.Fatal(err)
	}
	if oid := raw.TBS.PublicKey.Algorithm.Algorithm; !oid.Equal(mldsa65OID) {
		t.Errorf("the key is of %v", oid)
	}
	if oid := raw.Signature.Algorithm; !oid.Equal(mldsa65OID) {
		t.Errorf("the issuer signed with %v", oid)
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != 24*time.Hour {
		t.Errorf("valid for %v", life)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != identity("shop", "orders") {
		t.Errorf("URI names %v", leaf.URIs)
	}
	for _, name := range []string{"orders.shop.svc.cluster.local", "orders"} {
		if !slices.Contains(leaf.DNSNames, name) {
			t.Errorf("DNS names %v lack %s", leaf.DNSNames, name)
		}
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature || leaf.IsCA || !leaf.BasicConstraintsValid {
		t.Errorf("key usage %b, CA %v, basic constraints %v", leaf.KeyUsage, leaf.IsCA, leaf.BasicConstraintsValid)
	}
	if !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) {
		t.Errorf("extended key usage %v", leaf.ExtKeyUsage)
	}
	// T-24: leaf and signatures stay within the first window of TCP, ten segments of 1,460 bytes.
	if len(presented) > 6_000 {
		t.Errorf("the leaf has %d bytes", len(presented))
	}
	// The same one that the proxy says it holds.
	if held := evidence(t, pod(t, "shop", "orders")).Leaf; held == nil || held.Identity != identity("shop", "orders") || held.Algorithm != mldsa65 {
		t.Errorf("the proxy holds %+v", held)
	}
}

// rotate has a pod's proxy replace its leaf now, and returns both serials.
func rotate(t *testing.T, pod *kube.Pod, through string) (before, after string) {
	t.Helper()
	before = evidence(t, pod).Leaf.Serial
	if _, err := cluster.Exec(t.Context(), pod.Metadata.Namespace, pod.Metadata.Name, through,
		"/usr/bin/load", "fetch", "-X", "POST", "http://127.0.0.1:15000/identity/rotate"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new leaf of "+pod.Metadata.Name, func() error {
		if after = evidence(t, pod).Leaf.Serial; after == before {
			return fmt.Errorf("still %s", before)
		}
		return nil
	})
	return before, after
}

// C-07, Z-24: both ends swap their leaves several times under load; no request fails and no connection is
// closed, and every new handshake shows the new leaf.
func TestLeafIsSwappedUnderLoad(t *testing.T) {
	client, server := pod(t, "shop", "client"), pod(t, "shop", "orders")
	var newest string
	kept := underLoad(t, client, []string{"--workers=4", "tcp://orders:7000", "http://web/healthz"}, func() {
		fresh := underLoad(t, client, []string{"--workers=2", "--fresh", "tcp://orders:7000"}, func() {
			for range 3 {
				_, newest = rotate(t, server, "orders")
				rotate(t, client, "client")
			}
			// Each new connection after the swap finds its way as well.
			ask(t, client, "--count=20", "--fresh", "tcp://orders:7000")
		})
		if fresh.Failed != 0 {
			t.Errorf("new connections: %d of %d requests failed: %v", fresh.Failed, fresh.Sent, fresh.Errors)
		}
	})
	if kept.Failed != 0 || kept.Closed != 0 {
		t.Errorf("kept connections: %d of %d requests failed, %d connections closed: %v", kept.Failed, kept.Sent, kept.Closed, kept.Errors)
	}
	leaf, err := x509.ParseCertificate(attempts(t, server)["control"].Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if serial := fmt.Sprintf("%032x", leaf.SerialNumber); serial != fmt.Sprintf("%032s", newest) {
		t.Errorf("a handshake after the swap showed %s, want %s", serial, newest)
	}
}

// T-19: nothing of an identity is stored in the API: objects do not grow in number as leaves are swapped.
func TestRotationStoresNothing(t *testing.T) {
	before := countObjects(t)
	server := pod(t, "shop", "orders")
	for range 3 {
		rotate(t, server, "orders")
	}
	after := countObjects(t)
	for kind, number := range after {
		if number != before[kind] {
			t.Errorf("%s: %d before, %d after", kind, before[kind], number)
		}
	}
}

// countObjects of the shop and of the control plane, by kind.
func countObjects(t *testing.T) map[string]int {
	t.Helper()
	kinds, err := cluster.Run(t.Context(), "api-resources", "--namespaced", "--verbs=list", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	var wanted []string
	for _, kind := range strings.Fields(kinds) {
		// Events come and go by themselves.
		if !strings.HasPrefix(kind, "events") {
			wanted = append(wanted, kind)
		}
	}
	for _, namespace := range []string{"shop", bed.System} {
		text, err := cluster.Run(t.Context(), "get", strings.Join(wanted, ","), "-n", namespace, "-o", "name", "--ignore-not-found")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text) {
			kind, _, _ := strings.Cut(line, "/")
			counts[namespace+" "+kind]++
		}
	}
	return counts
}

// pkcs8Head begins every ML-DSA key in its only stored form: PKCS#8 of a 32-byte seed.
var pkcs8Head = []byte{0x30, 0x34, 0x02, 0x01, 0x00, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03}

// no key of a workload is in any Secret or ConfigMap; the root's only in its own Secret.
func TestNoWorkloadKeyInTheAPI(t *testing.T) {
	var secrets kube.List[kube.Secret]
	if err := cluster.Get(t.Context(), &secrets, "secrets", "-A"); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, secret := range secrets.Items {
		for key, value := range secret.Data {
			if bytes.Contains(value, []byte("PRIVATE KEY")) || bytes.Contains(value, pkcs8Head) {
				found[secret.Metadata.Namespace+"/"+secret.Metadata.Name] = true
				t.Logf("%s/%s holds a key under %s", secret.Metadata.Namespace, secret.Metadata.Name, key)
			}
		}
		if secret.Metadata.Namespace == "shop" {
			t.Errorf("Secret %s in the shop: the mesh needs none", secret.Metadata.Name)
		}
	}
	for _, own := range []string{bed.System + "/" + rootSecret, bed.System + "/trellis-injector-tls"} {
		if !found[own] {
			t.Errorf("%s holds no key: this test does not recognise keys", own)
		}
		delete(found, own)
	}
	if len(found) > 0 {
		t.Errorf("keys in %v", found)
	}
	var maps kube.List[kube.ConfigMap]
	if err := cluster.Get(t.Context(), &maps, "configmaps", "-A"); err != nil {
		t.Fatal(err)
	}
	for _, configMap := range maps.Items {
		for key, value := range configMap.Data {
			if strings.Contains(value, "PRIVATE KEY") {
				t.Errorf("ConfigMap %s/%s holds a key under %s", configMap.Metadata.Namespace, configMap.Metadata.Name, key)
			}
		}
	}
}

// the proxy has nowhere to write a key to, and where we can look into its filesystem there is none.
func TestNoKeyOnTheProxysFilesystem(t *testing.T) {
	var raw struct {
		Spec struct {
			InitContainers []struct {
				Name            string
				SecurityContext struct{ ReadOnlyRootFilesystem bool }
				VolumeMounts    []struct {
					Name     string
					ReadOnly bool
				}
				Env []struct{ Name, Value string }
			}
		}
	}
	orders := pod(t, "shop", "orders")
	if err := cluster.Get(t.Context(), &raw, "pod", "-n", "shop", orders.Metadata.Name); err != nil {
		t.Fatal(err)
	}
	for _, container := range raw.Spec.InitContainers {
		if !container.SecurityContext.ReadOnlyRootFilesystem {
			t.Errorf("%s may write to its root filesystem", container.Name)
		}
		for _, mount := range container.VolumeMounts {
			if !mount.ReadOnly {
				t.Errorf("%s may write to the volume %s", container.Name, mount.Name)
			}
		}
	}
	roots := proxyRoots(t)
	if len(roots) == 0 {
		t.Skip("the proxies' processes are on another machine: only the specification was checked")
	}
	for _, root := range roots {
		scan(t, root)
	}
}

// proxyRoots finds the filesystems of the proxies that run on this machine.
func proxyRoots(t *testing.T) []string {
	t.Helper()
	executables, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	var roots []string
	for _, executable := range executables {
		if target, err := os.Readlink(executable); err == nil && target == "/usr/bin/trellis-proxy" {
			roots = append(roots, filepath.Join(filepath.Dir(executable), "root"))
		}
	}
	return roots
}

func scan(t *testing.T, root string) {
	t.Helper()
	files := 0
	for _, folder := range []string{"etc", "run", "var", "tmp", "dev/shm", "home", "root"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, entry os.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return nil
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			files++
			if bytes.Contains(data, pkcs8Head) || bytes.Contains(data, []byte("PRIVATE KEY")) {
				t.Errorf("a key in %s", path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files == 0 {
		t.Errorf("no file at all under %s", root)
	}
}

// Z-05: the bundle reaches a namespace as soon as that is labelled, and comes back if somebody deletes it.
func TestTrustReachesANewNamespace(t *testing.T) {
	namespace(t, "e2e-trust", nil)
	var shops kube.ConfigMap
	if err := cluster.Get(t.Context(), &shops, "configmap", "-n", "shop", trustMap); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Run(t.Context(), "label", "namespace", "e2e-trust", bed.Inject+"=enabled"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "trust", func() error {
		var own kube.ConfigMap
		if err := cluster.Get(t.Context(), &own, "configmap", "-n", "e2e-trust", trustMap); err != nil {
			return err
		}
		if own.Data["bundle.pem"] == "" || own.Data["bundle.pem"] != shops.Data["bundle.pem"] {
			return fmt.Errorf("another bundle: %q", own.Data["bundle.pem"])
		}
		return nil
	})
	if _, err := cluster.Run(t.Context(), "delete", "configmap", "-n", "e2e-trust", trustMap); err != nil {
		t.Fatal(err)
	}
	eventually(t, "trust again", func() error {
		return cluster.Get(t.Context(), &kube.ConfigMap{}, "configmap", "-n", "e2e-trust", trustMap)
	})
}

// Z-06: the root is of ML-DSA-65 and signs nothing but leaves.
func TestRootIsPostQuantum(t *testing.T) {
	var trust kube.ConfigMap
	if err := cluster.Get(t.Context(), &trust, "configmap", "-n", "shop", trustMap); err != nil {
		t.Fatal(err)
	}
	roots := anchors(t, trust.Data["bundle.pem"])
	if len(roots) != 1 {
		t.Fatalf("%d roots", len(roots))
	}
	var raw certificate
	if _, err := asn1.Unmarshal(roots[0], &raw); err != nil {
		t.Fatal(err)
	}
	if !raw.TBS.PublicKey.Algorithm.Algorithm.Equal(mldsa65OID) || !raw.Signature.Algorithm.Equal(mldsa65OID) {
		t.Errorf("key of %v, signed with %v", raw.TBS.PublicKey.Algorithm.Algorithm, raw.Signature.Algorithm)
	}
	root, err := x509.ParseCertificate(roots[0])
	if err != nil {
		t.Fatal(err)
	}
	if !root.IsCA || !root.MaxPathLenZero {
		t.Errorf("CA %v, path length zero %v", root.IsCA, root.MaxPathLenZero)
	}
}

// anchors are the certificates of a bundle in PEM.
func anchors(t *testing.T, bundle string) [][]byte {
	t.Helper()
	var found [][]byte
	for rest := []byte(bundle); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return found
		}
		found = append(found, block.Bytes)
	}
}
