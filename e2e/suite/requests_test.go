package suite

// Certificates without a proxy: by the APIs of Kubernetes and over HTTPS, each only for the pod that asks.

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"trellis.dev/e2e/suite/bed"
)

const (
	signer = "trellis.dev/mesh"
)

type condition struct{ Type, Reason, Message string }

type request struct {
	Status struct {
		Certificate []byte
		Conditions  []condition
	}
}

// asker is a namespace with a pod in it that has no proxy, and may make CertificateSigningRequests.
func asker(t *testing.T, name string) {
	t.Helper()
	namespace(t, name, nil)
	role := map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": map[string]any{"name": name},
		"rules": []any{map[string]any{"apiGroups": []string{"certificates.k8s.io"}, "resources": []string{"certificatesigningrequests"}, "verbs": []string{"create", "get"}}},
	}
	binding := map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": name},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
		"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": "default", "namespace": name}},
	}
	apply(t, manifest(t, role))
	apply(t, manifest(t, binding))
	apply(t, manifest(t, idlePod(name, "asker", nil)))
	ready(t, name, "asker")
}

func idlePod(namespace, name string, sources []any) map[string]any {
	container := map[string]any{"name": "app", "image": "trellis.dev/e2e/go:1", "args": []string{"idle"}}
	spec := map[string]any{"terminationGracePeriodSeconds": 1, "containers": []any{container}}
	if sources != nil {
		container["volumeMounts"] = []any{map[string]any{"name": "identity", "mountPath": "/identity"}}
		spec["volumes"] = []any{map[string]any{"name": "identity", "projected": map[string]any{"sources": sources}}}
	}
	return map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": name, "namespace": namespace}, "spec": spec,
	}
}

// token is what the kubelet would give to the pod for an audience.
func token(t *testing.T, namespace, pod string, more ...string) string {
	t.Helper()
	args := []string{"create", "token", "default", "-n", namespace, "--bound-object-kind=Pod", "--bound-object-name=" + pod, "--bound-object-uid=" + getPod(t, namespace, pod).Metadata.UID}
	out, err := cluster.Run(t.Context(), append(args, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// withToken runs kubectl as who has the token, and nothing else.
func withToken(t *testing.T, token, input string, args ...string) error {
	t.Helper()
	raw, err := cluster.Run(t.Context(), "config", "view", "--raw", "--minify", "--flatten", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal([]byte(raw), &config); err != nil {
		t.Fatal(err)
	}
	for _, user := range config["users"].([]any) {
		user.(map[string]any)["user"] = map[string]any{"token": token}
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(manifest(t, config)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = cluster.Try(t.Context(), input, append([]string{"--kubeconfig=" + path}, args...)...)
	return err
}

// signingRequest is a request for a key of its own, for names of the caller's choice.
func signingRequest(t *testing.T, name string, uris ...string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{}
	for _, text := range uris {
		uri, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, uri)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	return manifest(t, map[string]any{
		"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"request": text, "signerName": signer, "expirationSeconds": 3600, "usages": []string{"digital signature", "client auth", "server auth"}},
	})
}

func answered(t *testing.T, name string) request {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, _ = cluster.Run(ctx, "delete", "csr", name, "--ignore-not-found")
	})
	var found request
	eventually(t, "an answer to "+name, func() error {
		found = request{}
		if err := cluster.Get(t.Context(), &found, "csr", name); err != nil {
			return err
		}
		for _, condition := range found.Status.Conditions {
			if condition.Type != "Approved" {
				return nil
			}
		}
		if len(found.Status.Certificate) == 0 {
			return errors.New("no certificate, and no refusal")
		}
		return nil
	})
	return found
}

// leafOf reads the certificate that stands first in PEM text, behind a key or not.
func leafOf(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	}
	t.Fatalf("no certificate in %d bytes", len(text))
	return nil
}

func TestSigningRequestOfAPodIsApprovedAndOneOfAnybodyElseDenied(t *testing.T) {
	const name = "e2e-requests"
	asker(t, name)
	own := identity(name, "default")
	if err := withToken(t, token(t, name, "asker"), signingRequest(t, name+"-own", own), "create", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	good := answered(t, name+"-own")
	if len(good.Status.Certificate) == 0 {
		t.Fatalf("refused: %+v", good.Status.Conditions)
	}
	leaf := leafOf(t, good.Status.Certificate)
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != own || leaf.PublicKeyAlgorithm != x509.ECDSA {
		t.Errorf("a certificate for %v with a key of %v", leaf.URIs, leaf.PublicKeyAlgorithm)
	}

	// Another's name, with the pod's own token; and the pod's name, by an administrator.
	other := identity("shop", "orders")
	if err := withToken(t, token(t, name, "asker"), signingRequest(t, name+"-other", other), "create", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	apply(t, signingRequest(t, name+"-admin", own))
	for request, said := range map[string]string{name + "-other": other, name + "-admin": "spec.username"} {
		denied := answered(t, request)
		if len(denied.Status.Conditions) != 1 || denied.Status.Conditions[0].Type != "Denied" || len(denied.Status.Certificate) != 0 {
			t.Fatalf("%s: %+v", request, denied.Status)
		}
		if message := denied.Status.Conditions[0].Message; !strings.Contains(message, said) {
			t.Errorf("%s: %s", request, message)
		}
		eventually(t, "an event of "+request, func() error {
			out, err := cluster.Run(t.Context(), "get", "events", "-n", "default", "--field-selector", "involvedObject.name="+request, "-o", "jsonpath={.items[*].reason}")
			if err == nil && !strings.Contains(out, "RequestDenied") {
				err = fmt.Errorf("there are only %q", out)
			}
			return err
		})
	}
}

func needPodCertificates(t *testing.T) {
	t.Helper()
	if out, err := cluster.Run(t.Context(), "api-resources", "--api-group=certificates.k8s.io", "-o", "name"); err != nil || !strings.Contains(out, "podcertificaterequests") {
		t.Skipf("this cluster has no PodCertificateRequests (%v)", err)
	}
}

// issued are the sources of a volume with a certificate of the mesh, which the kubelet asks for, and the
// mesh's anchors.
func issued(keyType string) []any {
	return []any{
		map[string]any{"podCertificate": map[string]any{"signerName": signer, "keyType": keyType, "credentialBundlePath": "credentials.pem"}},
		map[string]any{"clusterTrustBundle": map[string]any{"signerName": signer, "labelSelector": map[string]any{}, "path": "bundle.pem"}},
	}
}

func TestPodCertificateVolumeIsFilledAndBelowTheMeshsAnchor(t *testing.T) {
	needPodCertificates(t)
	const name = "e2e-podcertificate"
	namespace(t, name, nil)
	apply(t, manifest(t, idlePod(name, "good", issued("ECDSAP256"))))
	apply(t, manifest(t, idlePod(name, "bad", issued("ED25519"))))
	ready(t, name, "good")
	var list struct {
		Items []struct {
			Spec   struct{ PodName string }
			Status struct {
				CertificateChain                    string
				NotBefore, NotAfter, BeginRefreshAt time.Time
				Conditions                          []condition
			}
		}
	}
	eventually(t, "an answer to both", func() error {
		if err := cluster.Get(t.Context(), &list, "podcertificaterequests", "-n", name); err != nil {
			return err
		}
		for _, item := range list.Items {
			if len(item.Status.Conditions) == 0 {
				return fmt.Errorf("%s waits", item.Spec.PodName)
			}
		}
		if len(list.Items) < 2 {
			return fmt.Errorf("%d requests", len(list.Items))
		}
		return nil
	})
	for _, item := range list.Items {
		status := item.Status
		if item.Spec.PodName == "bad" {
			if status.Conditions[0].Type != "Denied" || status.Conditions[0].Reason != "UnsupportedKeyType" || !strings.Contains(status.Conditions[0].Message, "ECDSAP256") {
				t.Errorf("bad: %+v", status.Conditions)
			}
			continue
		}
		leaf := leafOf(t, []byte(status.CertificateChain))
		if own := identity(name, "default"); len(leaf.URIs) != 1 || leaf.URIs[0].String() != own {
			t.Errorf("a certificate for %v", leaf.URIs)
		}
		if !leaf.NotAfter.Equal(status.NotAfter) || !leaf.NotBefore.Equal(status.NotBefore) || !status.BeginRefreshAt.Before(status.NotAfter) {
			t.Errorf("%v to %v, refreshed at %v", status.NotBefore, status.NotAfter, status.BeginRefreshAt)
		}
		bundle, err := cluster.Run(t.Context(), "get", "clustertrustbundle", "trellis.dev:mesh:bundle", "-o", "jsonpath={.spec.trustBundle}")
		if err != nil {
			t.Fatal(err)
		}
		// Go cannot verify ML-DSA; that the leaf names the anchor as its issuer is what can be seen from here.
		if anchor := leafOf(t, []byte(bundle)); !bytes.Equal(leaf.RawIssuer, anchor.RawSubject) || !bytes.Equal(leaf.AuthorityKeyId, anchor.SubjectKeyId) {
			t.Errorf("issued by %v, and the anchor is %v", leaf.Issuer, anchor.Subject)
		}
	}
}

func TestIdentityGetWithThePodsToken(t *testing.T) {
	const name = "e2e-identity"
	namespace(t, name, nil)
	apply(t, manifest(t, idlePod(name, "asker", nil)))
	ready(t, name, "asker")
	folder := t.TempDir()
	bundle, err := cluster.Run(t.Context(), "get", "configmap", "-n", bed.System, trustMap, "-o", `jsonpath={.data.bundle\.pem}`)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"token": token(t, name, "asker", "--audience=trellis.dev/ca"), "bundle.pem": bundle}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, stderr, err := mesh.Trellis(t.Context(), "identity", "get", "--json",
		"--out", filepath.Join(folder, "out"), "--ca", forward(t, bed.System, "service/trellis-ca", 15014),
		"--token-file", filepath.Join(folder, "token"), "--ca-file", filepath.Join(folder, "bundle.pem"))
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	if own := identity(name, "default"); !strings.Contains(out, own) || !strings.Contains(out, "ml-dsa-65") {
		t.Errorf("got %s", out)
	}
	if info, err := os.Stat(filepath.Join(folder, "out", "tls.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}

// forward makes a port of the cluster reachable from here for one test.
func forward(t *testing.T, namespace, target string, port int) string {
	t.Helper()
	command := cluster.Command(t.Context(), "port-forward", "-n", namespace, target, fmt.Sprintf(":%d", port), "--address=127.0.0.1")
	line := make([]byte, 200)
	read, err := alongside(t, command).Read(line)
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).Find(line[:read])
	if err != nil || address == nil {
		t.Fatalf("no port: %q %v", line[:read], err)
	}
	return string(address)
}

func TestDenialIsAnEventOfTheTrustDomain(t *testing.T) {
	trustDo(t, "deny", "identity="+identity("nowhere", "nobody"), "--reason", "a test")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, _, _ = mesh.Trellis(ctx, "trust", "allow", "identity="+identity("nowhere", "nobody"))
	})
	eventually(t, "the event", func() error {
		out, err := cluster.Run(t.Context(), "describe", "trustdomain", "-n", bed.System, "mesh")
		if err == nil && !strings.Contains(out, "DenialsApplied") {
			err = errors.New("describe tells of none")
		} else if err == nil && !strings.Contains(out[strings.LastIndex(out, "Events:"):], "DenialsApplied") {
			err = fmt.Errorf("no event in %s", out[strings.LastIndex(out, "Events:"):])
		}
		return err
	})
}
