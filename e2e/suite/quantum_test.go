package suite

// The cryptographic resources as their users meet them: QubeSec's shapes, a key exchange between two
// namespaces, a signature that a third one verifies, and Secrets that nobody replaces.

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/manifests"
)

const quantumGroup = "crypto.trellis.dev"

// quantum is what the tests read of an object of any of the nine kinds.
type quantum struct {
	Kind     string
	Metadata struct {
		Name, UID  string
		Generation int64
	}
	Status struct {
		Status, Error                                string
		Algorithm, Fingerprint, PublicKeyFingerprint string
		MessageFingerprint, KeyFingerprint, Entropy  string
		Verified                                     *bool
		Version, ObservedGeneration                  int64
		Versions                                     []struct {
			Version            int64
			State, Fingerprint string
		}
		Conditions []struct {
			Type, Status, Reason, Message string
			ObservedGeneration            int64
		}
	}
}

func (q *quantum) condition(kind string) string {
	for _, one := range q.Status.Conditions {
		if one.Type == kind {
			return one.Status + " " + one.Reason + ": " + one.Message
		}
	}
	return ""
}

// keeping opens a namespace in which the CA may keep Secrets, as `trellis crypto allow` does.
func keeping(t *testing.T, name string) {
	t.Helper()
	namespace(t, name, nil)
	out, stderr, err := mesh.Trellis(t.Context(), "crypto", "allow", name)
	if err != nil {
		t.Fatalf("trellis crypto allow %s: %v\n%s%s", name, err, out, stderr)
	}
}

func quantumObject(t *testing.T, namespace, kind, name string) (found quantum, err error) {
	t.Helper()
	err = cluster.Get(t.Context(), &found, strings.ToLower(kind)+"."+quantumGroup, name, "-n", namespace)
	return found, err
}

// becomes waits until an object has one of the words as its status, and returns it.
func becomes(t *testing.T, namespace, kind, name string, words ...string) (found quantum) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s %s/%s is %s", kind, namespace, name, strings.Join(words, " or ")), func() (err error) {
		if found, err = quantumObject(t, namespace, kind, name); err != nil {
			return err
		}
		if !slices.Contains(words, found.Status.Status) || found.Status.ObservedGeneration != found.Metadata.Generation {
			return fmt.Errorf("%+v", found.Status)
		}
		return nil
	})
	return found
}

// shows waits until a condition of an object reads like this.
func shows(t *testing.T, namespace, kind, name, condition, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s %s/%s shows %s %q", kind, namespace, name, condition, text), func() error {
		found, err := quantumObject(t, namespace, kind, name)
		if err != nil {
			return err
		}
		if shown := found.condition(condition); !strings.Contains(shown, text) {
			return fmt.Errorf("%q of %+v", shown, found.Status)
		}
		return nil
	})
}

type secretObject struct {
	Type     string
	Data     map[string]string
	Metadata struct {
		UID, ResourceVersion string
		OwnerReferences      []struct{ Kind, Name, UID string }
		Annotations          map[string]string
	}
}

func secret(t *testing.T, namespace, name string) (found secretObject) {
	t.Helper()
	if err := cluster.Get(t.Context(), &found, "secret", name, "-n", namespace); err != nil {
		t.Fatal(err)
	}
	return found
}

func (s secretObject) item(t *testing.T, name string) []byte {
	t.Helper()
	text, known := s.Data[name]
	if !known {
		t.Fatalf("the Secret has no %s, only %d other items", name, len(s.Data))
	}
	value, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func quantumSamples(t *testing.T, namespace string) string {
	t.Helper()
	text, err := manifests.Read("quantum.yaml", map[string]string{"NAMESPACE": namespace})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// into puts objects of a manifest into a namespace.
func into(t *testing.T, namespace, text string) (string, error) {
	t.Helper()
	_, stderr, err := cluster.Try(t.Context(), text, "apply", "-n", namespace, "-f", "-")
	return stderr, err
}

func must(t *testing.T, namespace, text string) {
	t.Helper()
	if _, err := into(t, namespace, text); err != nil {
		t.Fatal(err)
	}
}

// C-08, Q-01 to: what was written for QubeSec works with another
// apiVersion, is left alone when it is applied again, and goes with its objects.
func TestQuantumSamples(t *testing.T) {
	const name = "e2e-quantum"
	keeping(t, name)
	must(t, name, quantumSamples(t, name))
	wanted := []struct{ kind, name, word, secret, items string }{
		{"QuantumRandomNumber", "sample-random-number", "Success", "sample-random-number", "quantumrandomnumber=64 random=64"},
		{"QuantumKEMKeyPair", "sample-kem-key-pair", "Success", "sample-kem-keys", "public-key private-key public_key=1568 private_key metadata"},
		{"QuantumEncapsulateSecret", "sample-encapsulate", "Success", "sample-encapsulated", "shared-secret=32 ciphertext=1568"},
		{"QuantumDecapsulateSecret", "sample-decapsulate", "Success", "sample-decapsulated", "shared-secret=32"},
		{"QuantumDerivedKey", "sample-derived-from-encapsulated", "Success", "sample-derived-from-encapsulated", "derived-key=32 fingerprint key-type=7"},
		{"QuantumDerivedKey", "sample-derived-from-decapsulated", "Success", "sample-derived-from-decapsulated", "derived-key=32 fingerprint key-type=7"},
		{"QuantumSignatureKeyPair", "sample-signature-key-pair", "Success", "sample-signature-keys", "public-key private-key public_key=2592 private_key metadata"},
		{"QuantumSignMessage", "sample-sign", "Success", "sample-signature", "signature=4627"},
		{"QuantumVerifySignature", "sample-verify", "Valid", "", ""},
		{"QuantumCertificate", "sample-certificate", "Success", "sample-certificate", "tls.crt tls.key ca.crt"},
	}
	versions := map[string]string{}
	for _, one := range wanted {
		found := becomes(t, name, one.kind, one.name, one.word)
		if ready := found.condition("Ready"); !strings.HasPrefix(ready, "True ") {
			t.Errorf("%s: Ready is %q", one.kind, ready)
		}
		if one.secret == "" {
			continue
		}
		kept := secret(t, name, one.secret)
		versions[one.secret] = kept.Metadata.ResourceVersion
		if owners := kept.Metadata.OwnerReferences; len(owners) != 1 || owners[0].UID != found.Metadata.UID {
			t.Errorf("%s is owned by %+v", one.secret, owners)
		}
		for item := range strings.FieldsSeq(one.items) {
			item, length, sized := strings.Cut(item, "=")
			if value := kept.item(t, item); sized && fmt.Sprint(len(value)) != length || len(value) == 0 {
				t.Errorf("%s of %s has %d bytes instead of %s", item, one.secret, len(value), length)
			}
		}
	}
	shared := secret(t, name, "sample-encapsulated").item(t, "shared-secret")
	if other := secret(t, name, "sample-decapsulated").item(t, "shared-secret"); string(other) != string(shared) {
		t.Error("the secret that was decapsulated is another one")
	}
	derived := secret(t, name, "sample-derived-from-encapsulated").item(t, "derived-key")
	if other := secret(t, name, "sample-derived-from-decapsulated").item(t, "derived-key"); string(other) != string(derived) {
		t.Error("the keys that were derived differ")
	}
	shows(t, name, "QuantumDecapsulateSecret", "sample-decapsulate", "KeyConfirmed", "True")
	table, err := cluster.Run(t.Context(), "get", "qes", "-n", name)
	if err != nil || !strings.Contains(table, "FINGERPRINT") || !strings.Contains(table, "Success") {
		t.Errorf("the short name's table is (%v):\n%s", err, table)
	}
	events, err := cluster.Run(t.Context(), "get", "events", "-n", name)
	if err != nil || !strings.Contains(events, "Created") {
		t.Errorf("no Event says that something was created (%v):\n%s", err, events)
	}

	must(t, name, quantumSamples(t, name))
	for _, one := range wanted {
		becomes(t, name, one.kind, one.name, one.word)
	}
	for name_, before := range versions {
		if after := secret(t, name, name_).Metadata.ResourceVersion; after != before {
			t.Errorf("Secret %s was written when nothing had changed", name_)
		}
	}
	// material is in Secrets alone.
	material := base64.StdEncoding.EncodeToString(shared)
	for _, kinds := range []string{"events", "configmaps", strings.ToLower("quantumencapsulatesecrets,quantumdecapsulatesecrets,quantumderivedkeys")} {
		text, err := cluster.Run(t.Context(), "get", kinds, "-n", name, "-o", "yaml")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, material) || strings.Contains(text, fmt.Sprintf("%x", shared)) {
			t.Errorf("a shared secret is in %s", kinds)
		}
	}
	// what is on record, and in the logs, has fingerprints, and never what they are of.
	whole, _ := trail(t)
	for _, one := range wanted {
		if one.secret == "" || one.kind == "QuantumSignMessage" {
			continue
		}
		kept := secret(t, name, one.secret)
		if mark := kept.Metadata.Annotations["crypto.trellis.dev/fingerprint"]; mark == "" || !strings.Contains(whole, `"fingerprint":"`+mark+`"`) {
			t.Errorf("the fingerprint of %s is on no record: %q", one.secret, mark)
		}
		for item, text := range kept.Data {
			if bytes := kept.item(t, item); len(bytes) >= 32 && !strings.HasPrefix(item, "public") && item != "fingerprint" &&
				(strings.Contains(whole, text) || strings.Contains(whole, fmt.Sprintf("%x", bytes))) {
				t.Errorf("%s of %s is in the CA's logs", item, one.secret)
			}
		}
	}

	if _, _, err := cluster.Try(t.Context(), quantumSamples(t, name), "delete", "-n", name, "--wait=false", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Secrets go with their objects", func() error {
		left, err := cluster.Run(t.Context(), "get", "secrets", "-n", name, "-o", "name")
		if err == nil && left != "" {
			err = errors.New(left)
		}
		return err
	})
}

// grant lets objects of a kind and namespace refer to what a namespace has.
func grant(namespace, fromKind, fromNamespace, toGroup, toKind string) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata:
  name: %[1]s-%[2]s-%[4]s
  namespace: %[5]s
spec:
  from: [{group: %[6]s, kind: %[7]s, namespace: %[2]s}]
  to: [{group: "%[3]s", kind: %[8]s}]
---`, strings.ToLower(fromKind), fromNamespace, toGroup, strings.ToLower(toKind), namespace, quantumGroup, fromKind, toKind)
}

// Bob has a key pair, Alice encapsulates to it from her namespace, Bob decapsulates,
// and both derive the same key; without a grant of the owner there is nothing.
func TestQuantumKeyExchangeBetweenNamespaces(t *testing.T) {
	const alice, bob = "e2e-alice", "e2e-bob"
	keeping(t, alice)
	keeping(t, bob)
	must(t, bob, `
apiVersion: crypto.trellis.dev/v1
kind: QuantumKEMKeyPair
metadata: {name: bob}
spec: {algorithm: X25519MLKEM768}`)
	must(t, alice, `
apiVersion: crypto.trellis.dev/v1
kind: QuantumEncapsulateSecret
metadata: {name: to-bob}
spec: {publicKeyRef: {name: bob, namespace: e2e-bob}, algorithm: X25519MLKEM768}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumDerivedKey
metadata: {name: session}
spec: {sharedSecretRef: {name: to-bob}, keyType: AES-256, salt: "00ff", info: "6f6e65"}`)
	shows(t, alice, "QuantumEncapsulateSecret", "to-bob", "Ready", "RefNotPermitted")
	must(t, bob, `
apiVersion: crypto.trellis.dev/v1
kind: QuantumDecapsulateSecret
metadata: {name: from-alice}
spec: {privateKeyRef: {name: bob}, ciphertextRef: {name: to-bob, namespace: e2e-alice}, algorithm: X25519MLKEM768}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumDerivedKey
metadata: {name: session}
spec: {sharedSecretRef: {name: from-alice}, keyType: AES-256, salt: "00ff", info: "6f6e65"}`)
	must(t, bob, grant(bob, "QuantumEncapsulateSecret", alice, quantumGroup, "QuantumKEMKeyPair"))
	first := becomes(t, alice, "QuantumEncapsulateSecret", "to-bob", "Success")
	shows(t, bob, "QuantumDecapsulateSecret", "from-alice", "Ready", "RefNotPermitted")
	must(t, alice, grant(alice, "QuantumDecapsulateSecret", bob, quantumGroup, "QuantumEncapsulateSecret"))
	same := func(besides string) (fingerprint string) {
		t.Helper()
		eventually(t, "Alice and Bob have the same key", func() error {
			a, err := quantumObject(t, alice, "QuantumDerivedKey", "session")
			if err != nil {
				return err
			}
			b, err := quantumObject(t, bob, "QuantumDerivedKey", "session")
			if err != nil {
				return err
			}
			fingerprint = a.Status.Fingerprint
			if fingerprint == "" || fingerprint == besides || fingerprint != b.Status.Fingerprint || a.Status.Status != "Success" || b.Status.Status != "Success" {
				return fmt.Errorf("%+v and %+v", a.Status, b.Status)
			}
			return nil
		})
		a, b := secret(t, alice, "session-derived-key"), secret(t, bob, "session-derived-key")
		if key := a.item(t, "derived-key"); len(key) != 32 || string(key) != string(b.item(t, "derived-key")) {
			t.Error("the keys differ")
		}
		return fingerprint
	}
	before := same("")
	shows(t, bob, "QuantumDecapsulateSecret", "from-alice", "KeyConfirmed", "True")

	// A rotation of Bob's key is followed by everybody, within seconds.
	if _, err := cluster.Run(t.Context(), "annotate", "quantumkemkeypair", "bob", "-n", bob, "crypto.trellis.dev/rotate=once"); err != nil {
		t.Fatal(err)
	}
	same(before)
	if second := becomes(t, alice, "QuantumEncapsulateSecret", "to-bob", "Success"); second.Status.Fingerprint == first.Status.Fingerprint {
		t.Error("Alice goes on with a secret for the old key")
	}
	if pair := becomes(t, bob, "QuantumKEMKeyPair", "bob", "Success"); pair.Status.Version != 2 {
		t.Errorf("the pair's version is %d", pair.Status.Version)
	}
	// A grant that is taken back ends the reference.
	if _, err := cluster.Run(t.Context(), "delete", "referencegrants", "--all", "-n", bob); err != nil {
		t.Fatal(err)
	}
	shows(t, alice, "QuantumEncapsulateSecret", "to-bob", "Ready", "RefNotPermitted")
}

// signed in one namespace, verified from another; whatever changes is signed and verified anew.
func TestQuantumSignatureIsVerifiedElsewhere(t *testing.T) {
	const signer, verifier = "e2e-signer", "e2e-verifier"
	keeping(t, signer)
	keeping(t, verifier)
	message := func(text string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: message}\nstringData: {message: %q}\n---", text)
	}
	must(t, signer, message("first")+`
apiVersion: crypto.trellis.dev/v1
kind: QuantumSignatureKeyPair
metadata: {name: pair}
spec: {algorithm: ML-DSA-65}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumSignMessage
metadata: {name: note}
spec: {privateKeyRef: {name: pair}, messageRef: {name: message}, algorithm: ML-DSA-65, outputSecretName: signature}
---`+grant(signer, "QuantumVerifySignature", verifier, quantumGroup, "QuantumSignatureKeyPair")+
		grant(signer, "QuantumVerifySignature", verifier, "", "Secret"))
	verify := func(name, messageIn string) string {
		return fmt.Sprintf(`
apiVersion: crypto.trellis.dev/v1
kind: QuantumVerifySignature
metadata: {name: %s}
spec:
  publicKeyRef: {name: pair, namespace: e2e-signer}
  messageRef: {name: message, namespace: %s}
  signatureRef: {name: signature, namespace: e2e-signer}
  algorithm: ML-DSA-65
---`, name, messageIn)
	}
	must(t, verifier, message("first")+verify("theirs", signer)+verify("copy", verifier))
	for _, name := range []string{"theirs", "copy"} {
		if found := becomes(t, verifier, "QuantumVerifySignature", name, "Valid"); found.Status.Verified == nil || !*found.Status.Verified {
			t.Errorf("%s is Valid and not verified: %+v", name, found.Status)
		}
	}
	before := secret(t, signer, "signature").item(t, "signature")
	must(t, signer, message("second"))
	eventually(t, "the message is signed anew", func() error {
		if string(secret(t, signer, "signature").item(t, "signature")) == string(before) {
			return errors.New("the signature is the old one")
		}
		return nil
	})
	// The verifier's copy is the old message, which this is no signature of.
	if found := becomes(t, verifier, "QuantumVerifySignature", "copy", "Invalid"); found.Status.Verified == nil || *found.Status.Verified {
		t.Errorf("a message that was not signed: %+v", found.Status)
	}
	becomes(t, verifier, "QuantumVerifySignature", "theirs", "Valid")
	must(t, verifier, message("second"))
	becomes(t, verifier, "QuantumVerifySignature", "copy", "Valid")
}

// Q-21, W-03, W-04, W-08: no Secret is replaced that was made once, and none that somebody else made.
func TestQuantumSecretsAreKept(t *testing.T) {
	const name = "e2e-kept"
	keeping(t, name)
	must(t, name, `
apiVersion: v1
kind: Secret
metadata: {name: foreign}
stringData: {password: theirs}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumSignatureKeyPair
metadata: {name: pair}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumKEMKeyPair
metadata: {name: foreign}
---
apiVersion: crypto.trellis.dev/v1
kind: QuantumRandomNumber
metadata: {name: anew}
spec: {recreatePolicy: Recreate}`)
	first := becomes(t, name, "QuantumSignatureKeyPair", "pair", "Success")
	becomes(t, name, "QuantumRandomNumber", "anew", "Success")
	shows(t, name, "QuantumKEMKeyPair", "foreign", "SecretConflict", "True")
	if theirs := secret(t, name, "foreign"); string(theirs.item(t, "password")) != "theirs" || len(theirs.Data) != 1 {
		t.Error("a foreign Secret was changed")
	}
	remove := func(what string) {
		t.Helper()
		if _, err := cluster.Run(t.Context(), "delete", "secret", what, "-n", name); err != nil {
			t.Fatal(err)
		}
	}
	before := secret(t, name, "anew").item(t, "quantumrandomnumber")
	remove("pair")
	remove("anew")
	shows(t, name, "QuantumSignatureKeyPair", "pair", "Lost", "True")
	lost := becomes(t, name, "QuantumSignatureKeyPair", "pair", "Failed").Status.Versions
	if len(lost) != 1 || first.Status.PublicKeyFingerprint == "" || !strings.HasPrefix(lost[0].Fingerprint, first.Status.PublicKeyFingerprint) {
		t.Errorf("nobody knows any more which key was lost: %+v", lost)
	}
	eventually(t, "what may be made anew is", func() error {
		after := secretObject{}
		if err := cluster.Get(t.Context(), &after, "secret", "anew", "-n", name); err != nil {
			return err
		}
		if string(after.item(t, "quantumrandomnumber")) == string(before) {
			return errors.New("the number is the one that was deleted")
		}
		return nil
	})
	if _, _, err := cluster.Try(t.Context(), "", "get", "secret", "pair", "-n", name); err == nil {
		t.Error("a key that was lost was made anew, which nobody wished")
	}
}

// Without the operator's permission nothing is kept in a namespace, and with it at once.
func TestQuantumNeedsPermission(t *testing.T) {
	const name = "e2e-unpermitted"
	namespace(t, name, nil)
	must(t, name, "apiVersion: crypto.trellis.dev/v1\nkind: QuantumRandomNumber\nmetadata: {name: number}")
	shows(t, name, "QuantumRandomNumber", "number", "Ready", "trellis crypto allow "+name)
	if out, stderr, err := mesh.Trellis(t.Context(), "crypto", "allow", name); err != nil {
		t.Fatalf("%v\n%s%s", err, out, stderr)
	}
	becomes(t, name, "QuantumRandomNumber", "number", "Success")
	account := "system:serviceaccount:" + bed.System + ":trellis-ca"
	for _, question := range [][]string{{"get", "secrets", "-n", "default"}, {"list", "secrets", "-A"}, {"create", "rolebindings", "-n", name}} {
		answer, _, _ := cluster.Try(t.Context(), "", append([]string{"auth", "can-i", "--as", account}, question...)...)
		if strings.TrimSpace(answer) != "no" {
			t.Errorf("the CA may %s: %s", strings.Join(question, " "), answer)
		}
	}
}

// the leader is killed again and again while objects are made; no key is made twice, none is lost.
func TestQuantumSurvivesItsController(t *testing.T) {
	const name, objects, deaths = "e2e-killed", 30, 4
	keeping(t, name)
	var all strings.Builder
	for number := range objects {
		fmt.Fprintf(&all, "apiVersion: crypto.trellis.dev/v1\nkind: QuantumSignatureKeyPair\nmetadata: {name: pair-%d}\nspec: {algorithm: ML-DSA-44}\n---\n", number)
	}
	must(t, name, all.String())
	seen := map[string]string{}
	look := func() {
		t.Helper()
		var kept struct {
			Items []struct {
				secretObject
				Metadata struct{ Name, UID string }
			}
		}
		if err := cluster.Get(t.Context(), &kept, "secrets", "-n", name, "-l", "crypto.trellis.dev/kind=QuantumSignatureKeyPair"); err != nil {
			t.Fatal(err)
		}
		now := map[string]string{}
		for _, one := range kept.Items {
			now[one.Metadata.Name] = one.Data["public_key"]
		}
		for name, key := range seen {
			if now[name] != key {
				t.Errorf("%s has another key, or none", name)
			}
		}
		seen = now
	}
	for range deaths {
		look()
		victim := ""
		eventually(t, "one leads", func() error {
			if victim = leader(t); victim == "" {
				return errors.New("nobody")
			}
			return nil
		})
		if _, err := cluster.Run(t.Context(), "delete", "pod", victim, "-n", bed.System, "--grace-period=0", "--force"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another one leads", func() error {
			if now := leader(t); now == victim || now == "" {
				return errors.New("not yet")
			}
			return nil
		})
	}
	for number := range objects {
		becomes(t, name, "QuantumSignatureKeyPair", fmt.Sprintf("pair-%d", number), "Success")
	}
	look()
	if len(seen) != objects {
		t.Errorf("%d Secrets for %d objects", len(seen), objects)
	}
	// The control plane is whole again for the tests that follow.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := rolledOut(ctx, bed.System, "trellis-ca"); err != nil {
		t.Fatal(err)
	}
}
