package suite

// What was made by cryptographic resources, where it is used: in volumes and environments of pods, at a
// gateway's listener, and judged by OpenSSL.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis.dev/e2e/suite/kube"
)

// opensslProgram is one that knows ML-DSA.
func opensslProgram(t *testing.T) string {
	t.Helper()
	built, err := exec.CommandContext(t.Context(), filepath.Join(mesh.Root, "ci", "openssl")).Output()
	if err != nil {
		t.Fatalf("OpenSSL: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(built)), "bin", "openssl")
}

// opensslSays runs it with an input, in a folder, for a bounded time.
func opensslSays(t *testing.T, program, folder, input string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience/4)
	defer cancel()
	command := exec.CommandContext(ctx, program, args...)
	command.Dir, command.Stdin = folder, strings.NewReader(input)
	out, err := command.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("openssl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// exported writes items of a Secret into files of a folder, each under its own name.
func exported(t *testing.T, folder string, from secretObject, items ...string) {
	t.Helper()
	for _, item := range items {
		if err := os.WriteFile(filepath.Join(folder, item), from.item(t, item), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// chainOf makes a root, an intermediate below it and a server's certificate below that, each with a classical
// companion, and returns the server's Secret.
func chainOf(t *testing.T, namespace string) secretObject {
	t.Helper()
	must(t, namespace, `
apiVersion: crypto.trellis.dev/v1
kind: QuantumCertificate
metadata: {name: root}
spec: {algorithm: ML-DSA-87, isCA: true, commonName: Root, days: 30, hybrid: {algorithm: ECDSA-P384}}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumCertificate
metadata: {name: between}
spec: {certType: ca, commonName: Between, maxPathLength: 0, days: 20, issuerRef: {name: root}, hybrid: {algorithm: ECDSA-P256}}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumCertificate
metadata: {name: web}
spec:
  secretName: web-tls
  certType: server
  dnsNames: [shop.example]
  days: 10
  issuerRef: {name: between}
  hybrid: {algorithm: ECDSA-P256}`)
	for _, name := range []string{"root", "between", "web"} {
		becomes(t, namespace, "QuantumCertificate", name, "Success")
	}
	made := secret(t, namespace, "web-tls")
	if made.Type != "kubernetes.io/tls" {
		t.Errorf("the Secret is of type %s", made.Type)
	}
	return made
}

// a chain of three is one to OpenSSL too, and its key is the certificate's.
func TestQuantumChainIsJudgedByOpenSSL(t *testing.T) {
	const name = "e2e-chain"
	keeping(t, name)
	program, folder := opensslProgram(t), t.TempDir()
	exported(t, folder, chainOf(t, name), "tls.crt", "tls.key", "ca.crt")
	verify := func(args ...string) (string, error) {
		return opensslSays(t, program, folder, "", append([]string{"verify", "-purpose", "sslserver", "-verify_hostname", "shop.example"}, args...)...)
	}
	if said, err := verify("-x509_strict", "-CAfile", "ca.crt", "-untrusted", "tls.crt", "tls.crt"); err != nil || !strings.Contains(said, "tls.crt: OK") {
		t.Errorf("%v: %s", err, said)
	}
	// The judge can say no: the root alone has not signed it, and the names are no others.
	if said, err := verify("-CAfile", "ca.crt", "tls.crt"); err == nil {
		t.Errorf("without what stands between: %s", said)
	}
	if said, err := verify("-CAfile", "ca.crt", "-untrusted", "tls.crt", "-verify_hostname", "other.example", "tls.crt"); err == nil {
		t.Errorf("for another host: %s", said)
	}
	of := func(args ...string) string {
		said, err := opensslSays(t, program, folder, "", args...)
		if err != nil {
			t.Fatal(err)
		}
		return said
	}
	if certified, kept := of("x509", "-in", "tls.crt", "-noout", "-pubkey"), of("pkey", "-in", "tls.key", "-pubout"); certified != kept {
		t.Errorf("the certificate is for\n%sand the key is of\n%s", certified, kept)
	}
	if text := of("x509", "-in", "tls.crt", "-noout", "-text"); !strings.Contains(text, mldsa65) || !strings.Contains(text, "CN=Between") && !strings.Contains(text, "CN = Between") {
		t.Errorf("it is not of ML-DSA-65 below the intermediate:\n%s", text)
	}

	// Below the mesh's CA, servers are believed by whoever has the mesh's bundle.
	must(t, name, `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 443}]}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumCertificate
metadata: {name: of-mesh}
spec: {certType: server, dnsNames: [web.e2e-chain.svc], issuerRef: {kind: MeshCA}}`)
	becomes(t, name, "QuantumCertificate", "of-mesh", "Success")
	exported(t, folder, secret(t, name, "of-mesh"), "tls.crt")
	var trust kube.ConfigMap
	if err := cluster.Get(t.Context(), &trust, "configmap", "-n", "shop", trustMap); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "bundle.pem"), []byte(trust.Data["bundle.pem"]), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := opensslSays(t, program, folder, "", "verify", "-purpose", "sslserver", "-verify_hostname", "web.e2e-chain.svc",
		"-CAfile", "bundle.pem", "-untrusted", "tls.crt", "tls.crt"); err != nil || !strings.Contains(said, "tls.crt: OK") {
		t.Errorf("%v: %s", err, said)
	}
}

// a pod reads what was made from its volumes, every byte of it, and what is text from its environment.
func TestQuantumMaterialInAPod(t *testing.T) {
	const name = "e2e-reader"
	keeping(t, name)
	must(t, name, `
apiVersion: crypto.trellis.dev/v1
kind: QuantumCertificate
metadata: {name: web}
spec: {secretName: web-tls, domain: web.example}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumRandomNumber
metadata: {name: number}
spec: {bytes: 48}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumKEMKeyPair
metadata: {name: pair}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumEncapsulateSecret
metadata: {name: shared}
spec: {publicKeyRef: {name: pair}}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumDerivedKey
metadata: {name: session}
spec: {sharedSecretRef: {name: shared}, keyType: ChaCha20, secretName: session}`)
	becomes(t, name, "QuantumCertificate", "web", "Success")
	becomes(t, name, "QuantumRandomNumber", "number", "Success")
	becomes(t, name, "QuantumDerivedKey", "session", "Success")
	from := func(secret, key string) map[string]any {
		return map[string]any{"secretKeyRef": map[string]any{"name": secret, "key": key}}
	}
	apply(t, manifest(t, podOf(name, func(_, spec map[string]any) {
		container := spec["containers"].([]any)[0].(map[string]any)
		container["image"] = "trellis.dev/e2e/python:1"
		container["args"] = []string{"-c", "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"}
		container["env"] = []any{
			map[string]any{"name": "CERTIFICATE", "valueFrom": from("web-tls", "tls.crt")},
			map[string]any{"name": "KEY_TYPE", "valueFrom": from("session", "key-type")},
		}
		var mounts, volumes []any
		for _, secret := range []string{"web-tls", "number", "session"} {
			mounts = append(mounts, map[string]any{"name": secret, "mountPath": "/" + secret, "readOnly": true})
			volumes = append(volumes, map[string]any{"name": secret, "secret": map[string]any{"secretName": secret}})
		}
		container["volumeMounts"], spec["volumes"] = mounts, volumes
	})))
	ready(t, name, "case")
	in := func(expression string) string {
		t.Helper()
		said, err := cluster.Exec(t.Context(), name, "case", "client", "/usr/bin/python3.11", "-c", "import os; print("+expression+")")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(said)
	}
	for file, length := range map[string]int{
		"web-tls/tls.crt": 0, "web-tls/tls.key": 0, "web-tls/ca.crt": 0, "number/random": 48, "session/derived-key": 32,
	} {
		made, item, _ := strings.Cut(file, "/")
		kept := secret(t, name, made).item(t, item)
		if read := in(fmt.Sprintf("open(%q, 'rb').read().hex()", "/"+file)); read != hex.EncodeToString(kept) || read == "" {
			t.Errorf("what the pod reads in %s is not what is kept", file)
		}
		if length > 0 && len(kept) != length {
			t.Errorf("%s has %d bytes instead of %d", file, len(kept), length)
		}
	}
	for variable, of := range map[string][2]string{"CERTIFICATE": {"web-tls", "tls.crt"}, "KEY_TYPE": {"session", "key-type"}} {
		kept := secret(t, name, of[0]).item(t, of[1])
		if read := in(fmt.Sprintf("os.environ[%q].encode().hex()", variable)); read != hex.EncodeToString(kept) || read == "" {
			t.Errorf("what the pod reads in $%s is not what is kept", variable)
		}
	}
}

// a gateway serves a hybrid certificate: OpenSSL, which verifies ML-DSA, is shown that one, and
// a client of nothing but Go's TLS the classical one, both below the roots of the same Secret.
func TestQuantumCertificateAtAGateway(t *testing.T) {
	const name, host = "e2e-front", "shop.example"
	keeping(t, name)
	made := chainOf(t, name)
	if _, err := cluster.Run(t.Context(), "create", "rolebinding", "trellis-gateway-certificates", "-n", name,
		"--clusterrole=trellis-gateway-certificates", "--serviceaccount=trellis-system:trellis-discovery"); err != nil {
		t.Fatal(err)
	}
	must(t, name, `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front}
spec:
  gatewayClassName: trellis
  listeners: [{name: web, port: 443, protocol: HTTPS, hostname: shop.example, tls: {certificateRefs: [{name: web-tls}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: front}
spec:
  parentRefs: [{name: front}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: elsewhere.example, statusCode: 302}}]}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front}
spec:
  tls: [{hosts: [shop.example], secretName: web-tls}]
  rules: [{host: shop.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]`)
	if _, err := cluster.Run(t.Context(), "wait", "-n", name, "gateway/front", "--for=condition=Programmed", "--timeout=60s"); err != nil {
		t.Fatal(errors.Join(err, explain(t.Context(), name)))
	}
	text, err := cluster.Run(t.Context(), "get", "-n", name, "gateway/front", "-o", `jsonpath={.status.addresses[?(@.type=="IPAddress")].value}`)
	if err != nil || len(strings.Fields(text)) == 0 {
		t.Fatalf("the gateway has no address: %q, %v", text, err)
	}
	address := hostPort(strings.Fields(text)[0], 443)
	program, folder := opensslProgram(t), t.TempDir()
	exported(t, folder, made, "ca.crt")
	eventually(t, "OpenSSL is served", func() error {
		said, err := opensslSays(t, program, folder, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n",
			"s_client", "-connect", address, "-servername", host, "-verify_hostname", host, "-verify_return_error", "-CAfile", "ca.crt", "-ign_eof")
		for _, want := range []string{"Verify return code: 0 (ok)", "Peer signature type: mldsa65", "Negotiated TLS1.3 group: " + postQuantum, "HTTP/1.1 302", "elsewhere.example"} {
			if !strings.Contains(strings.ToLower(said), strings.ToLower(want)) {
				return fmt.Errorf("no %q in\n%s%v", want, said, err)
			}
		}
		return nil
	})
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(made.item(t, "ca.crt")) {
		t.Fatal("ca.crt holds no certificate")
	}
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS13}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatalf("a client that cannot verify ML-DSA: %v", err)
	}
	defer connection.Close()
	state := connection.(*tls.Conn).ConnectionState()
	if shown := state.PeerCertificates[0]; shown.PublicKeyAlgorithm != x509.ECDSA || state.CurveID != tls.X25519MLKEM768 {
		t.Errorf("it was shown a certificate of %s, and %s was agreed on", shown.PublicKeyAlgorithm, state.CurveID)
	}
}
