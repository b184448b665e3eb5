package suite

// A cluster that ran QubeSec's controller: its objects and Secrets are taken over where they are.

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
)

const oldGroup = "qubesec.io"

// what QubeSec's controller keeps of each kind of the samples: the object's Secret with its items, and the
// field of the status that names it.
var oldCustody = []struct{ kind, name, secret, items, reference string }{
	{"QuantumRandomNumber", "sample-random-number", "sample-random-number", "quantumrandomnumber", "randomNumberReference"},
	{"QuantumKEMKeyPair", "sample-kem-key-pair", "sample-kem-keys", "public-key private-key", "keyPairReference"},
	{"QuantumEncapsulateSecret", "sample-encapsulate", "sample-encapsulated", "shared-secret ciphertext", "sharedSecretReference"},
	{"QuantumDecapsulateSecret", "sample-decapsulate", "sample-decapsulated", "shared-secret", "sharedSecretReference"},
	{"QuantumDerivedKey", "sample-derived-from-encapsulated", "sample-derived-from-encapsulated", "derived-key fingerprint key-type", "derivedKeyReference"},
	{"QuantumDerivedKey", "sample-derived-from-decapsulated", "sample-derived-from-decapsulated", "derived-key fingerprint key-type", "derivedKeyReference"},
	{"QuantumSignatureKeyPair", "sample-signature-key-pair", "sample-signature-keys", "public-key private-key", "keyPairReference"},
	{"QuantumSignMessage", "sample-sign", "sample-signature", "signature", "signatureReference"},
	{"QuantumCertificate", "sample-certificate", "sample-certificate", "tls.crt tls.key", "certificateReference"},
}

// oldDefinition is a definition of the other group, with the shape of none of its fields.
func oldDefinition(kind string) map[string]any {
	plural := strings.ToLower(kind) + "s"
	open := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	return map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": plural + "." + oldGroup},
		"spec": map[string]any{
			"group": oldGroup, "scope": "Namespaced",
			"names": map[string]any{"kind": kind, "plural": plural, "singular": strings.ToLower(kind)},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}},
				"schema": map[string]any{"openAPIV3Schema": map[string]any{
					"type": "object", "properties": map[string]any{"spec": open, "status": open},
				}},
			}},
		},
	}
}

// C-08, Q-21, W-08: every Secret of the old controller is the new one's, with the same bytes, and what is
// made from them is the same.
func TestQuantumTakesOverTheOldGroup(t *testing.T) {
	const before, name = "e2e-qubesec-material", "e2e-qubesec"
	// Material as the old controller would have made it.
	keeping(t, before)
	samples := quantumSamples(t, before)
	for kind, more := range map[string]string{
		"QuantumKEMKeyPair": "keyFormat: qubesec", "QuantumSignatureKeyPair": "keyFormat: qubesec", "QuantumDerivedKey": "kdfProfile: Plain",
	} {
		documents := strings.Split(samples, "\n---\n")
		for at, document := range documents {
			if strings.Contains(document, "kind: "+kind+"\n") {
				documents[at] = strings.TrimRight(document, "\n") + "\n  " + more
			}
		}
		samples = strings.Join(documents, "\n---\n")
	}
	must(t, before, samples)
	for _, one := range oldCustody {
		becomes(t, before, one.kind, one.name, "Success")
	}

	keeping(t, name)
	var definitions []any
	kinds := []string{"QuantumVerifySignature"}
	for _, one := range oldCustody {
		if !slices.Contains(kinds, one.kind) {
			kinds = append(kinds, one.kind)
		}
	}
	for _, kind := range kinds {
		definitions = append(definitions, oldDefinition(kind))
	}
	must(t, name, manifest(t, map[string]any{"apiVersion": "v1", "kind": "List", "items": definitions}))
	if _, err := cluster.Run(t.Context(), "wait", "crd", "-l", "!app.kubernetes.io/part-of", "--for=condition=Established", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	must(t, name, strings.ReplaceAll(quantumSamples(t, name), quantumGroup+"/v1", oldGroup+"/v1"))
	old := func(kind, object string) (found quantum, err error) {
		err = cluster.Get(t.Context(), &found, strings.ToLower(kind)+"."+oldGroup, object, "-n", name)
		return found, err
	}
	says := func(kind, object string, status map[string]any) {
		t.Helper()
		patch, err := json.Marshal(map[string]any{"status": status})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cluster.Run(t.Context(), "patch", strings.ToLower(kind)+"."+oldGroup, object, "-n", name,
			"--subresource=status", "--type=merge", "-p", string(patch)); err != nil {
			t.Fatal(err)
		}
	}
	kept := map[string]map[string]string{}
	for _, one := range oldCustody {
		object, err := old(one.kind, one.name)
		if err != nil {
			t.Fatal(err)
		}
		made, data := secret(t, before, one.secret), map[string]string{}
		for item := range strings.FieldsSeq(one.items) {
			made.item(t, item)
			data[item] = made.Data[item]
		}
		kept[one.secret] = data
		must(t, name, manifest(t, map[string]any{
			"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data,
			"metadata": map[string]any{"name": one.secret, "ownerReferences": []any{map[string]any{
				"apiVersion": oldGroup + "/v1", "kind": one.kind, "name": one.name, "uid": object.Metadata.UID,
				"controller": true, "blockOwnerDeletion": true,
			}}},
		}))
		status := map[string]any{
			"status": "Success", "lastUpdateTime": "2026-01-01T00:00:00Z", "fingerprint": "0123456789",
			one.reference: map[string]any{"name": one.secret, "namespace": name},
		}
		if one.kind == "QuantumEncapsulateSecret" {
			status["ciphertext"] = fmt.Sprintf("%x", made.item(t, "ciphertext"))
		}
		says(one.kind, one.name, status)
	}
	says("QuantumVerifySignature", "sample-verify", map[string]any{"status": "Valid", "verified": true})

	serve := func(old string, more ...string) {
		t.Helper()
		args := append([]string{"upgrade", bed.Release, mesh.Chart(), "-n", bed.System, "--reuse-values",
			"--set", "crypto.qubesec=" + old, "--wait", "--timeout", "3m"}, more...)
		if out, err := mesh.HelmRun(t.Context(), args...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	serve("true", "--take-ownership", "--force-conflicts")
	for _, one := range append(slices.Clone(oldCustody), struct{ kind, name, secret, items, reference string }{"QuantumVerifySignature", "sample-verify", "", "", ""}) {
		eventually(t, one.kind+" "+one.name+" is taken over", func() error {
			found, err := old(one.kind, one.name)
			if err != nil {
				return err
			}
			word := "Success"
			if one.secret == "" {
				word = "Valid"
			}
			if found.Status.Status != word || found.Status.ObservedGeneration == 0 || !strings.HasPrefix(found.condition("Ready"), "True ") {
				return fmt.Errorf("%+v", found.Status)
			}
			return nil
		})
		if one.secret == "" {
			continue
		}
		now := secret(t, name, one.secret).Data
		maps.DeleteFunc(now, func(item, _ string) bool { _, old := kept[one.secret][item]; return !old })
		if !maps.Equal(now, kept[one.secret]) {
			t.Errorf("Secret %s holds something else than before", one.secret)
		}
	}
	if found, err := old("QuantumDecapsulateSecret", "sample-decapsulate"); err != nil || !strings.HasPrefix(found.condition("KeyConfirmed"), "True ") {
		t.Errorf("what the old controller encapsulated is not confirmed: %v %+v", err, found.Status)
	}
	events, err := cluster.Run(t.Context(), "get", "events", "-n", name)
	if err != nil || !strings.Contains(events, "Adopted") {
		t.Errorf("no Event says that something was taken over (%v):\n%s", err, events)
	}
	// From here on it is one of ours.
	if _, err := cluster.Run(t.Context(), "annotate", "quantumkemkeypair."+oldGroup, "sample-kem-key-pair", "-n", name, "crypto.trellis.dev/rotate=once"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a rotation", func() error {
		found, err := old("QuantumKEMKeyPair", "sample-kem-key-pair")
		if err == nil && found.Status.Version != 2 {
			err = fmt.Errorf("%+v", found.Status)
		}
		return err
	})
	if archived := secret(t, name, "sample-kem-keys-v1"); archived.Data["private-key"] != kept["sample-kem-keys"]["private-key"] {
		t.Error("the key that was taken over is not what is kept of it")
	}
	serve("false")
	// What was served stays, until nobody has an object any more.
	if _, err := old("QuantumKEMKeyPair", "sample-kem-key-pair"); err != nil {
		t.Error(err)
	}
	for _, kind := range kinds {
		if _, err := cluster.Run(t.Context(), "delete", "crd", strings.ToLower(kind)+"s."+oldGroup); err != nil {
			t.Error(err)
		}
	}
}
