package suite

// A Secret that was made here goes to a vault outside, by other people's operator.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"trellis.dev/e2e/suite/kube"
)

// externalSecrets runs the operator for a namespace, on this machine, until the test ends.
func externalSecrets(t *testing.T, namespace string) {
	t.Helper()
	program, types, err := mesh.ExternalSecrets(t.Context())
	if err != nil {
		t.Fatalf("External Secrets: %v", err)
	}
	var files []string
	for _, file := range types {
		files = append(files, "-f", file)
	}
	// Too large for the annotation that a client-side apply would keep.
	if _, err := cluster.Run(t.Context(), append([]string{"apply", "--server-side"}, files...)...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := cluster.Run(ctx, append([]string{"delete", "--ignore-not-found", "--wait=false"}, files...)...); err != nil {
			t.Log(err)
		}
	})
	if _, err := cluster.Run(t.Context(), append([]string{"wait", "--for=condition=Established", "--timeout=30s"}, files...)...); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	command := exec.Command(program, "--namespace="+namespace, "--metrics-addr=0", "--live-addr=0",
		"--enable-cluster-store-reconciler=false", "--enable-cluster-external-secret-reconciler=false", "--enable-cluster-push-secret-reconciler=false")
	command.Env = append(os.Environ(), "KUBECONFIG="+mesh.Kubeconfig)
	command.Stdout, command.Stderr = &said, &said
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Logf("the operator said:\n%s", said.Bytes()[max(0, said.Len()-4000):])
		}
	})
}

// a PushSecret takes a key pair's Secret to a store outside, follows its rotation, and what comes back
// from there is the same, byte by byte.
func TestSecretGoesToAnOutsideVault(t *testing.T) {
	const name = "e2e-pushed"
	keeping(t, name)
	externalSecrets(t, name)
	// The operator holds up their end, and with it that of the namespace, so it has to see it.
	t.Cleanup(func() {
		_, _, _ = cluster.Try(context.Background(), "", "delete", "pushsecrets,externalsecrets", "--all", "-n", name, "--timeout=20s")
	})
	must(t, name, `
apiVersion: crypto.trellis.dev/v1
kind: QuantumKEMKeyPair
metadata: {name: pair}
spec: {algorithm: ML-KEM-768}
---
apiVersion: external-secrets.io/v1
kind: SecretStore
metadata: {name: outside}
spec: {provider: {fake: {data: []}}}
---
apiVersion: external-secrets.io/v1alpha1
kind: PushSecret
metadata: {name: pair}
spec:
  refreshInterval: 2s
  secretStoreRefs: [{name: outside, kind: SecretStore}]
  selector: {secret: {name: pair}}
  data:
    - match: {secretKey: private-key, remoteRef: {remoteKey: pair/private}}
    - match: {secretKey: private_key, remoteRef: {remoteKey: pair/raw}}`)
	becomes(t, name, "QuantumKEMKeyPair", "pair", "Success")
	var pushed struct {
		Status struct{ Conditions []kube.Condition }
	}
	eventually(t, "the Secret is outside", func() error {
		if err := cluster.Get(t.Context(), &pushed, "pushsecret", "pair", "-n", name); err != nil {
			return err
		}
		if !slices.ContainsFunc(pushed.Status.Conditions, func(c kube.Condition) bool { return c.Type == "Ready" && c.Status == "True" && c.Reason == "Synced" }) {
			return fmt.Errorf("%+v", pushed.Status)
		}
		return nil
	})
	must(t, name, `
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata: {name: pair}
spec:
  refreshInterval: 2s
  secretStoreRef: {name: outside, kind: SecretStore}
  target: {name: returned}
  data:
    - {secretKey: private-key, remoteRef: {key: pair/private}}
    - {secretKey: private_key, remoteRef: {key: pair/raw}}`)
	returns := func(besides string) (now string) {
		t.Helper()
		eventually(t, "what comes back is what was made", func() error {
			var back secretObject
			if err := cluster.Get(t.Context(), &back, "secret", "returned", "-n", name); err != nil {
				return err
			}
			kept := secret(t, name, "pair")
			for _, item := range []string{"private-key", "private_key"} {
				if back.Data[item] != kept.Data[item] || kept.Data[item] == "" {
					return fmt.Errorf("%s is another one", item)
				}
			}
			if now = kept.Data["private-key"]; now == besides {
				return errors.New("the key is the one from before")
			}
			return nil
		})
		return now
	}
	before := returns("")
	if _, err := cluster.Run(t.Context(), "annotate", "quantumkemkeypair", "pair", "-n", name, "crypto.trellis.dev/rotate=once"); err != nil {
		t.Fatal(err)
	}
	returns(before)
}
