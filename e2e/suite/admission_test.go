package suite

// What is refused on admission: cryptographic resources that cannot be met, operations for somebody else's
// ServiceAccount, and certificates that do not resist, in namespaces that want such.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

// refused applies objects that must not be let in, for a reason that names all of this.
func refused(t *testing.T, namespace, text string, named ...string) {
	t.Helper()
	said, err := into(t, namespace, text)
	if err == nil {
		t.Errorf("this was let in:\n%s", text)
		return
	}
	for _, part := range named {
		if !strings.Contains(said, part) {
			t.Errorf("no %q in %s", part, said)
		}
	}
}

// the field, the value and the remedy, of each field that is wrong; labels of what is there
// already stay free.
func TestQuantumSpecsAreJudgedOnAdmission(t *testing.T) {
	const name = "e2e-judged"
	namespace(t, name, nil)
	object := func(kind, spec string) string {
		return fmt.Sprintf("apiVersion: crypto.trellis.dev/v1\nkind: %s\nmetadata: {name: wrong}\nspec: %s\n", kind, spec)
	}
	for _, wrong := range []struct {
		kind, spec string
		named      []string
	}{
		{"QuantumKEMKeyPair", `{algorithm: ML-KEM-2048}`, []string{"spec.algorithm", "ML-KEM-2048", "ML-KEM-768"}},
		{"QuantumSignatureKeyPair", `{algorithm: Falcon512}`, []string{"spec.algorithm", "Falcon512", "ML-DSA-65"}},
		{"QuantumRandomNumber", `{bytes: 65537}`, []string{"spec.bytes", "65537", "65536"}},
		{"QuantumRandomNumber", `{rotation: {every: soon}}`, []string{"spec.rotation.every", "soon"}},
		{"QuantumDerivedKey", `{sharedSecretRef: {name: a}, keyType: AES-256, salt: xyz}`, []string{"spec.salt", "xyz", "0-9a-fA-F"}},
		{"QuantumEncapsulateSecret", `{algorithm: ML-KEM-768}`, []string{"spec.publicKeyRef"}},
		{"QuantumCertificate", `{domain: "a/O=X"}`, []string{"spec.domain", "a/O=X"}},
		{"QuantumKEMKeyPair", `{secretName: Upper}`, []string{"spec.secretName", "Upper"}},
	} {
		refused(t, name, object(wrong.kind, wrong.spec), wrong.named...)
	}
	said, err := into(t, name, object("QuantumKEMKeyPair", "{algorithm: Kyber768}"))
	if err != nil || !strings.Contains(said, "Warning") || !strings.Contains(said, "ML-KEM-768") {
		t.Errorf("a name from before the standards is let in with a warning: %v\n%s", err, said)
	}
	if _, err := cluster.Run(t.Context(), "label", "quantumkemkeypair", "wrong", "-n", name, "team=shop"); err != nil {
		t.Error(err)
	}
}

// for whom an operation is can only be said by that account or who may impersonate it.
func TestQuantumOperationsAreForTheirAccount(t *testing.T) {
	const name = "e2e-accounts"
	namespace(t, name, nil)
	must(t, name, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: builder}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: pipeline}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: editors}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{kind: ServiceAccount, name: builder}, {kind: User, apiGroup: rbac.authorization.k8s.io, name: mallory}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: writers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: trellis-crypto-edit}
subjects:
- {kind: ServiceAccount, name: pipeline}
- {kind: User, apiGroup: rbac.authorization.k8s.io, name: alice}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: readers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: trellis-crypto-view}
subjects:
- {kind: ServiceAccount, name: pipeline}
- {kind: User, apiGroup: rbac.authorization.k8s.io, name: alice}`)
	sign := func(as, account, message string) (string, error) {
		if message != "first" {
			_, said, err := cluster.Try(t.Context(), "", "patch", "quantumsignmessage", "for-"+account, "--as", as, "-n", name,
				"--type=merge", "-p", fmt.Sprintf(`{"spec": {"messageRef": {"name": %q}}}`, message))
			return said, err
		}
		text := fmt.Sprintf(`
apiVersion: crypto.trellis.dev/v1
kind: QuantumSignMessage
metadata: {name: for-%s}
spec: {privateKeyRef: {name: pair}, messageRef: {name: %s}, algorithm: ML-DSA-65, serviceAccountName: %[1]s}`, account, message)
		_, said, err := cluster.Try(t.Context(), text, "create", "--as", as, "-n", name, "-f", "-")
		return said, err
	}
	account := func(of string) string { return "system:serviceaccount:" + name + ":" + of }
	// A new policy is not in effect everywhere at once, and neither are rights: ask until it is so.
	eventually(t, "nobody signs for another account", func() error {
		said, err := sign("alice", "builder", "first")
		if err == nil || !strings.Contains(said, "spec.serviceAccountName") || !strings.Contains(said, "impersonate") {
			return fmt.Errorf("%v: %s", err, said)
		}
		return nil
	})
	if said, err := sign(account("pipeline"), "builder", "first"); err == nil {
		t.Errorf("another account of the namespace signs for the builder: %s", said)
	}
	if said, err := sign(account("builder"), "builder", "first"); err != nil {
		t.Errorf("the account itself: %s", said)
	}
	if said, err := sign("alice", "builder", "second"); err == nil || !strings.Contains(said, "spec.serviceAccountName") {
		t.Errorf("what is signed for an account was changed by somebody else: %v: %s", err, said)
	}
	if said, err := sign(account("builder"), "builder", "second"); err != nil {
		t.Errorf("the account itself changes it: %s", said)
	}
	// Kubernetes' own edit may impersonate accounts of its namespace, and so may say it.
	if said, err := sign("mallory", "pipeline", "first"); err != nil {
		t.Errorf("who may impersonate an account: %s", said)
	}
}

// classical is a certificate of ECDSA and its key, PEM.
func classical(t *testing.T, host string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// T-37: in a namespace that says so, certificates of RSA or ECDSA are warned about or refused: in a
// Secret, and where an Ingress or a Gateway names one.
func TestCertificatesThatDoNotResistAreRefused(t *testing.T) {
	const name = "e2e-enforced"
	keeping(t, name)
	certificate, key := classical(t, "shop.example")
	encoded := base64.StdEncoding.EncodeToString
	tls := func(secret string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n---\n",
			secret, encoded([]byte(certificate)), encoded([]byte(key)))
	}
	must(t, name, tls("before")+`
apiVersion: crypto.trellis.dev/v1
kind: QuantumCertificate
metadata: {name: resists}
spec: {domain: shop.example, algorithm: ML-DSA-65}`)
	becomes(t, name, "QuantumCertificate", "resists", "Success")
	ingress := func(secret string) string {
		return fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: of-%[1]s}
spec:
  tls: [{hosts: [shop.example], secretName: %[1]s}]
  rules: [{host: shop.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
`, secret)
	}
	gateway := func(secret string) string {
		return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: of-%[1]s}
spec:
  gatewayClassName: nobody
  listeners: [{name: web, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: %[1]s}]}}]
`, secret)
	}
	level := func(level string) {
		t.Helper()
		if _, err := cluster.Run(t.Context(), "label", "namespace", name, "--overwrite", "trellis.dev/enforce="+level); err != nil {
			t.Fatal(err)
		}
	}
	level("deny")
	refused(t, name, tls("after"), "data[tls.crt]", "ECDSA-P256", "QuantumCertificate", "secretName: after")
	refused(t, name, ingress("before"), "spec.tls[0].secretName", "trellis-injector-certificates")
	if _, err := cluster.Run(t.Context(), "create", "rolebinding", "trellis-injector-certificates", "-n", name,
		"--clusterrole=trellis-injector-certificates", "--serviceaccount=trellis-system:trellis-injector"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the injector reads the certificates of this namespace", func() error {
		said, err := into(t, name, ingress("before"))
		if err == nil || !strings.Contains(said, "ECDSA-P256") {
			return fmt.Errorf("%v: %s", err, said)
		}
		return nil
	})
	refused(t, name, gateway("before"), "spec.listeners[0].tls.certificateRefs[0]", "ECDSA-P256")
	must(t, name, ingress("resists"))
	must(t, name, gateway("resists"))
	// What is there already is not broken.
	if _, err := cluster.Run(t.Context(), "label", "secret", "before", "-n", name, "team=shop"); err != nil {
		t.Error(err)
	}
	level("hybrid")
	both := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: both}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s, pq.crt: %s}\n",
		encoded([]byte(certificate)), encoded([]byte(key)), secret(t, name, "resists").Data["tls.crt"])
	eventually(t, "a classical certificate beside one that resists", func() error {
		said, err := into(t, name, both)
		if err != nil {
			return fmt.Errorf("%w: %s", err, said)
		}
		return nil
	})
	// Alone it may lie there, but not be served.
	refused(t, name, strings.ReplaceAll(ingress("before"), "of-before", "alone"), "spec.tls[0].secretName", "ECDSA-P256", "hybrid")
	level("warn")
	eventually(t, "a warning", func() error {
		said, err := into(t, name, tls("warned"))
		if err == nil && !strings.Contains(said, "Warning") {
			_, err = cluster.Run(t.Context(), "delete", "secret", "warned", "-n", name)
			return fmt.Errorf("none: %s (%v)", said, err)
		}
		return err
	})
	level("dny")
	refused(t, name, tls("unknown"), "trellis.dev/enforce", "dny")
}
