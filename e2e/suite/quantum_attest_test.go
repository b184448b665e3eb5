package suite

// Images and resources that somebody has approved: signed by the cryptographic resources and on the command
// line, and either verified by the other.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// said runs the command line, which has to succeed.
func said(t *testing.T, args ...string) string {
	t.Helper()
	out, stderr, err := mesh.Trellis(t.Context(), args...)
	if err != nil {
		t.Fatalf("trellis %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr)
	}
	return out
}

// isRefused runs the command line, which has to fail and to say why.
func isRefused(t *testing.T, why string, args ...string) {
	t.Helper()
	out, stderr, err := mesh.Trellis(t.Context(), args...)
	if err == nil || !strings.Contains(stderr, why) {
		t.Errorf("trellis %s: %v, without %q\n%s%s", strings.Join(args, " "), err, why, out, stderr)
	}
}

// signers makes a key pair in a namespace, and returns files with its private and its public key.
func signers(t *testing.T, namespace string) (private, public string) {
	t.Helper()
	must(t, namespace, `
apiVersion: crypto.trellis.dev/v1
kind: QuantumSignatureKeyPair
metadata: {name: pair}
spec: {algorithm: ML-DSA-65}`)
	becomes(t, namespace, "QuantumSignatureKeyPair", "pair", "Success")
	folder := t.TempDir()
	exported(t, folder, secret(t, namespace, "pair"), "private-key", "public-key")
	return filepath.Join(folder, "private-key"), filepath.Join(folder, "public-key")
}

// T-05: the digest of an image is signed by a QuantumSignMessage and by `trellis sign`, each is verified by the
// other's way, and another digest by neither.
func TestImageDigestIsSigned(t *testing.T) {
	const name, repository = "e2e-images", "registry.example/shop/cart@sha256:"
	keeping(t, name)
	private, public := signers(t, name)
	approved, tampered := repository+strings.Repeat("9f", 32), repository+strings.Repeat("9e", 32)
	message := func(name, image string) string {
		return manifest(t, map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name},
			"data": map[string]any{"message": said(t, "sign", image, "--message")},
		}) + "\n---\n"
	}
	verify := func(name string) string {
		return fmt.Sprintf(`
apiVersion: crypto.trellis.dev/v1
kind: QuantumVerifySignature
metadata: {name: %[1]s}
spec:
  publicKeyRef: {name: pair}
  messageRef: {name: %[1]s, kind: ConfigMap}
  signatureRef: {name: signature}
  algorithm: ML-DSA-65
---`, name)
	}
	must(t, name, message("approved", approved)+message("tampered", tampered)+`
apiVersion: crypto.trellis.dev/v1
kind: QuantumSignMessage
metadata: {name: cart}
spec: {privateKeyRef: {name: pair}, messageRef: {name: approved, kind: ConfigMap}, algorithm: ML-DSA-65, outputSecretName: signature}
---`+verify("approved")+verify("tampered"))
	becomes(t, name, "QuantumSignMessage", "cart", "Success")
	becomes(t, name, "QuantumVerifySignature", "approved", "Valid")
	if found := becomes(t, name, "QuantumVerifySignature", "tampered", "Invalid"); found.Status.Verified == nil || *found.Status.Verified {
		t.Errorf("another digest: %+v", found.Status)
	}

	folder := t.TempDir()
	exported(t, folder, secret(t, name, "signature"), "signature")
	document := filepath.Join(folder, "document")
	said(t, "sign", approved, "--key", private, "--out", document)
	for _, signature := range []string{filepath.Join(folder, "signature"), document} {
		if out := said(t, "verify", approved, "--key", public, "--signature", signature); !strings.HasPrefix(out, "valid: ") {
			t.Errorf("%s: %s", signature, out)
		}
		isRefused(t, "Error", "verify", tampered, "--key", public, "--signature", signature)
	}
	isRefused(t, "name an image", "sign", "registry.example/shop/cart:latest", "--key", private)
}

// a resource carries who approved it; whatever the API server and controllers do to it leaves that as it
// is, an edit makes it void, and the edit taken back makes it good again.
func TestResourceCarriesItsAttestation(t *testing.T) {
	const name = "e2e-attested"
	keeping(t, name)
	private, public := signers(t, name)
	must(t, name, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, labels: {team: shop}}
spec:
  replicas: 1
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: cart, image: "trellis.dev/e2e/go:1", args: [idle]}]}`)
	file := filepath.Join(t.TempDir(), "cart.json")
	read := func() {
		t.Helper()
		text, err := cluster.Run(t.Context(), "get", "deployment", "cart", "-n", name, "-o", "json")
		if err == nil {
			err = os.WriteFile(file, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	edit := func(patch string) {
		t.Helper()
		if _, err := cluster.Run(t.Context(), "patch", "deployment", "cart", "-n", name, "--type=merge", "-p", patch); err != nil {
			t.Fatal(err)
		}
		read()
	}
	good := func(what string) {
		t.Helper()
		if out := said(t, "verify", "--file", file, "--key", public); !strings.HasPrefix(out, "valid: apps/v1/Deployment/"+name+"/cart ") {
			t.Errorf("%s: %s", what, out)
		}
	}
	read()
	isRefused(t, "no annotation crypto.trellis.dev/attestation", "verify", "--file", file, "--key", public)
	document := strings.TrimSpace(said(t, "sign", "--file", file, "--key", private))
	if _, err := cluster.Run(t.Context(), "annotate", "deployment", "cart", "-n", name, "crypto.trellis.dev/attestation="+document); err != nil {
		t.Fatal(err)
	}
	// Its controller has written into it meanwhile: a status, and the number of its revision.
	if err := rolledOut(t.Context(), name, "cart"); err != nil {
		t.Fatal(err)
	}
	read()
	good("as it was signed")
	edit(`{"spec": {"replicas": 2}}`)
	isRefused(t, "is for", "verify", "--file", file, "--key", public)
	edit(`{"spec": {"replicas": 1}}`)
	good("with the edit taken back")
	edit(`{"metadata": {"labels": {"team": "mallory"}}}`)
	isRefused(t, "is for", "verify", "--file", file, "--key", public)
}
