package suite

// The CA is killed again and again, at any moment and between the write of a Secret and that of its status: never is
// there a second key for a version, and never is one lost.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"trellis.dev/e2e/suite/bed"
)

const (
	// Phases are namespaces of their own, in which the CA dies so often: what is kept in one grows with every
	// rotation, and whoever begins reads all of it.
	killPhases, killsInPhase = 5, 200
	// killGroups of objects that depend on one another are in each.
	killGroups = 5
	// lifetime that is the longest for those who die at a random moment: time to begin, and to do a few things.
	lifetime = 250 * time.Millisecond
	// idleLife ends a life in which no Secret was written.
	idleLife = 500 * time.Millisecond
)

// mortal is the CA as one process that begins again as soon as it has died.
type mortal struct {
	supervisor string
	victim     int
}

// mortalCA lets the CA run below a program that starts it again at once, as one replica, until the test ends.
func mortalCA(t *testing.T) *mortal {
	t.Helper()
	var deployment struct{ Spec struct{ Replicas int } }
	if err := cluster.Get(t.Context(), &deployment, "deployment", "trellis-ca", "-n", bed.System); err != nil {
		t.Fatal(err)
	}
	tool := map[string]any{"name": "again", "mountPath": "/again"}
	patch := map[string]any{"spec": map[string]any{"replicas": 1, "template": map[string]any{"spec": map[string]any{
		"volumes": []any{map[string]any{"name": "again", "emptyDir": map[string]any{}}},
		"initContainers": []any{map[string]any{
			"name": "again", "image": "trellis.dev/e2e/go:1", "command": []string{"/usr/bin/again", "--copy", "/again/again"},
			"securityContext": map[string]any{"allowPrivilegeEscalation": false, "capabilities": map[string]any{"drop": []string{"ALL"}}},
			"volumeMounts":    []any{tool},
		}},
		// The kubelet would take what dies so often for dead.
		"containers": []any{map[string]any{
			"name": "ca", "command": []string{"/again/again", "/usr/bin/trellis-ca"}, "livenessProbe": nil, "volumeMounts": []any{tool},
		}},
	}}}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		_, undo := cluster.Run(ctx, "rollout", "undo", "-n", bed.System, "deployment/trellis-ca")
		_, scaled := cluster.Run(ctx, "scale", "-n", bed.System, "deployment/trellis-ca", fmt.Sprintf("--replicas=%d", deployment.Spec.Replicas))
		if err := errors.Join(undo, scaled, rolledOut(ctx, bed.System, "trellis-ca")); err != nil {
			t.Error(err)
		}
	})
	if _, err := cluster.Run(t.Context(), "patch", "deployment", "trellis-ca", "-n", bed.System, "-p", manifest(t, patch)); err != nil {
		t.Fatal(err)
	}
	if err := rolledOut(t.Context(), bed.System, "trellis-ca"); err != nil {
		t.Fatal(err)
	}
	m := &mortal{}
	eventually(t, "the CA is one process, which leads", func() error {
		found, all := processesOf(t, "/again/again"), processesOf(t, "/usr/bin/trellis-ca")
		replicas := pods(t, bed.System, "app.kubernetes.io/component=ca")
		if len(found) != 1 || len(all) != 1 || len(replicas) != 1 || leader(t) != replicas[0].Metadata.Name {
			return fmt.Errorf("%d supervisors and %d CAs in %d pods, led by %s", len(found), len(all), len(replicas), leader(t))
		}
		m.supervisor = found[0]
		return nil
	})
	m.lives(t)
	return m
}

// lives waits until another one lives than the last that was killed.
func (m *mortal) lives(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		threads, err := filepath.Glob(filepath.Join(m.supervisor, "task", "*", "children"))
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			// A thread may have ended meanwhile.
			text, _ := os.ReadFile(thread)
			for child := range strings.FieldsSeq(string(text)) {
				if pid, err := strconv.Atoi(child); err == nil && pid != m.victim {
					m.victim = pid
					return
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody lives any more")
		}
		time.Sleep(time.Millisecond)
	}
}

func (m *mortal) dies(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(m.victim, syscall.SIGKILL); err != nil {
		t.Fatalf("the CA died by itself: %v", err)
	}
}

// killObjects are kinds and names of a group, those first that are not derived from others.
var killObjects = []struct{ kind, name, spec string }{
	{"QuantumKEMKeyPair", "kem", "{algorithm: ML-KEM-512}"},
	{"QuantumSignatureKeyPair", "pair", "{algorithm: ML-DSA-44}"},
	{"QuantumRandomNumber", "number", "{}"},
	{"QuantumEncapsulateSecret", "enc", "{publicKeyRef: {name: kem-GROUP}, algorithm: ML-KEM-512}"},
	{"QuantumDecapsulateSecret", "dec", "{privateKeyRef: {name: kem-GROUP}, ciphertextRef: {name: enc-GROUP}, algorithm: ML-KEM-512}"},
	{"QuantumDerivedKey", "key", "{sharedSecretRef: {name: dec-GROUP}, keyType: ChaCha20}"},
}

// killPhase is one namespace, its objects, and what became of them.
type killPhase struct {
	api       *wire
	namespace string
	dice      *rand.Rand
	// killed are the versions of the cluster's state by which a CA was dead.
	killed []int64
	seen   *seenVersions
	// deleted are versions that the test itself took away.
	deleted map[madeVersion]bool
}

// change is something that users do.
func (p *killPhase) change(t *testing.T, round int) {
	t.Helper()
	group := p.dice.IntN(killGroups)
	one := killObjects[p.dice.IntN(3)]
	name := fmt.Sprintf("%s-%d", one.name, group)
	edit := func(patch any) {
		t.Helper()
		p.api.patch(t, p.path(one.kind, name), patch)
	}
	spec := func(field string, value any) { edit(map[string]any{"spec": map[string]any{field: value}}) }
	switch p.dice.IntN(9) {
	case 0, 1, 2, 3:
		edit(map[string]any{"metadata": map[string]any{"annotations": map[string]any{"crypto.trellis.dev/rotate": fmt.Sprint(round)}}})
	case 4:
		spec("secretName", fmt.Sprintf("%s-moved-%d", name, p.dice.IntN(3)))
	case 5:
		newest := p.seen.newest(name)
		spec("version", max(1, newest-p.dice.Int64N(3)))
	case 6, 7:
		spec("version", nil)
	default:
		derived := []string{"dec-%d-shared-secret", "key-%d-derived-key"}[p.dice.IntN(2)]
		secret := fmt.Sprintf(derived, group)
		// Of what no status tells yet, nobody has been told.
		if held, known := p.seen.known(secret); known && p.api.delete(t, "/api/v1/namespaces/"+p.namespace+"/secrets/"+secret, held.revision) {
			p.deleted[held.madeVersion] = true
		}
	}
}

func (p *killPhase) path(kind, name string) string {
	return "/apis/" + quantumGroup + "/v1/namespaces/" + p.namespace + "/" + strings.ToLower(kind) + "s/" + name
}

// the thousand kills, of the real CA before a real API server, while users rotate, roll back, move and
// delete.
func TestCAThatDiesAThousandTimes(t *testing.T) {
	if !mesh.Own() {
		t.Skip("the CA of another's cluster is no process of this machine")
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	api := directly(t)
	victim := mortalCA(t)
	kills, between, versions, began := 0, 0, 0, time.Now()
	for phase := range killPhases {
		p := &killPhase{api: api, namespace: fmt.Sprintf("e2e-mortal-%d", phase), dice: dice, deleted: map[madeVersion]bool{}}
		p.run(t, victim)
		kills, between, versions = kills+len(p.killed), between+p.seen.between(p.killed), versions+len(p.seen.made)
		t.Logf("%d kills, %d of them between a Secret and its status, %d versions, after %.0f s", kills, between, versions, time.Since(began).Seconds())
		if t.Failed() {
			return
		}
	}
	if kills < killPhases*killsInPhase || between < kills/20 || versions < kills/2 {
		t.Errorf("little was tried: %d kills, %d between a Secret and its status, %d versions", kills, between, versions)
	}
}

func (p *killPhase) run(t *testing.T, victim *mortal) {
	t.Helper()
	keeping(t, p.namespace)
	p.seen = watchVersions(t, p.api, p.namespace)
	var all strings.Builder
	for group := range killGroups {
		for _, one := range killObjects {
			fmt.Fprintf(&all, "apiVersion: crypto.trellis.dev/v1\nkind: %s\nmetadata: {name: %s-%d}\nspec: %s\n---\n",
				one.kind, one.name, group, strings.ReplaceAll(one.spec, "GROUP", fmt.Sprint(group)))
		}
	}
	must(t, p.namespace, all.String())
	for len(p.killed) < killsInPhase {
		written := p.seen.written()
		for range 1 + p.dice.IntN(2) {
			p.change(t, len(p.killed))
		}
		if p.dice.IntN(2) == 0 {
			time.Sleep(time.Duration(p.dice.Int64N(int64(lifetime))))
		} else {
			select {
			case <-written:
			case <-time.After(idleLife):
			}
		}
		victim.dies(t)
		victim.lives(t)
		p.killed = append(p.killed, p.api.now(t, p.namespace))
	}
	p.settles(t)
	p.judge(t)
	p.seen.end()
}

// settles lets the last one work until all is as it is wished, and what depends on something follows it.
func (p *killPhase) settles(t *testing.T) {
	t.Helper()
	for group := range killGroups {
		for _, one := range killObjects[:3] {
			p.api.patch(t, p.path(one.kind, fmt.Sprintf("%s-%d", one.name, group)), map[string]any{"spec": map[string]any{"version": nil}})
		}
	}
	eventually(t, "everything is made, and follows what it is made of", func() error {
		for group := range killGroups {
			found := map[string]killStatus{}
			for _, one := range killObjects {
				var object struct {
					Metadata struct{ Generation int64 }
					Status   killStatus
				}
				name := fmt.Sprintf("%s-%d", one.name, group)
				if err := p.api.get(p.path(one.kind, name), &object); err != nil {
					return err
				}
				if object.Status.Status != "Success" || object.Status.ObservedGeneration != object.Metadata.Generation {
					return fmt.Errorf("%s: %+v", name, object.Status)
				}
				found[one.name] = object.Status
			}
			if found["enc"].PublicKeyFingerprint != found["kem"].PublicKeyFingerprint || found["dec"].FullFingerprint != found["enc"].FullFingerprint ||
				found["key"].SharedSecretFingerprint == "" || !strings.HasPrefix(found["dec"].FullFingerprint, found["key"].SharedSecretFingerprint) {
				return fmt.Errorf("group %d does not follow: %+v", group, found)
			}
		}
		return nil
	})
}

// killStatus is what is read of a status.
type killStatus struct {
	Status, Error                                                  string
	PublicKeyFingerprint, FullFingerprint, SharedSecretFingerprint string
	ObservedGeneration                                             int64
	Versions                                                       []struct {
		Version            int64
		State, Fingerprint string
	}
}

// judge looks at everything that ever was in a Secret or a status, and at what is there.
func (p *killPhase) judge(t *testing.T) {
	t.Helper()
	// Something that every watch sees, after everything else.
	now := p.api.now(t, p.namespace)
	for _, one := range killObjects {
		p.api.patch(t, p.path(one.kind, one.name+"-0"), map[string]any{"metadata": map[string]any{"annotations": map[string]any{"e2e/end": "seen"}}})
	}
	must(t, p.namespace, "apiVersion: v1\nkind: Secret\nmetadata: {name: end}")
	p.seen.caughtUp(t, now)
	p.seen.mutex.Lock()
	defer p.seen.mutex.Unlock()
	there := map[madeVersion]bool{}
	for _, held := range p.seen.secrets {
		there[held.madeVersion] = true
	}
	for version, marks := range p.seen.made {
		if len(marks) != 1 {
			t.Errorf("%+v was made more than once: %v", version, marks)
		}
		if !there[version] && !p.deleted[version] {
			t.Errorf("%+v is lost", version)
		}
		if told := p.seen.told[version]; len(told.marks) > 1 || len(told.marks) == 1 && !hasMark(marks, told.marks[0]) {
			t.Errorf("%+v is %v in Secrets, and %v in statuses", version, marks, told.marks)
		}
	}
	for version, told := range p.seen.told {
		if p.seen.made[version] == nil {
			t.Errorf("%+v is in a status (%v) and was never in a Secret", version, told.marks)
		}
	}
	for version, state := range p.seen.states {
		// What was made of something that is another one by now does not come back when it is deleted.
		if state == "Lost" && !p.deleted[version] {
			t.Errorf("%+v is said to be lost", version)
		}
	}
}

func hasMark(marks []string, told string) bool {
	return slices.ContainsFunc(marks, func(mark string) bool { return strings.HasPrefix(mark, told+" ") })
}
