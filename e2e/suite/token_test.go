package suite

// The issuing key goes into a PKCS#11 token that the replicas share, is used there, and comes back.

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis.dev/e2e/suite/bed"
	trellis "trellis.dev/e2e/suite/mesh"
)

const (
	tokenLabel = "e2e"
	tokenPin   = "12345678"
)

// softToken is kryoptic, a token in software that knows ML-DSA, with what it is linked to and what it holds in
// a folder that the nodes see.
type softToken struct{ folder, module, conf string }

func makeToken(t *testing.T) softToken {
	t.Helper()
	built, err := exec.CommandContext(t.Context(), filepath.Join(mesh.Root, "ci", "kryoptic")).Output()
	if err != nil {
		t.Fatalf("kryoptic: %v", err)
	}
	// Whoever runs in a pod is nobody here.
	made := softToken{folder: t.TempDir(), module: strings.TrimSpace(string(built))}
	lib, objects := filepath.Join(made.folder, "lib"), filepath.Join(made.folder, "objects")
	for _, folder := range []string{made.folder, lib, objects} {
		if err := os.MkdirAll(folder, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(folder, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range append(linkedTo(t, made.module), made.module) {
		content, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(lib, filepath.Base(file)), content, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	settings := func(name, objects string) string {
		file := filepath.Join(made.folder, name)
		text := "[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = \"" + objects + "/token.sql\"\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	settings("conf", "/opt/token/objects")
	made.conf = settings("outside", objects)
	made.run(t, "softhsm2-util", "--module", made.module, "--init-token", "--slot", "1", "--label", tokenLabel, "--pin", tokenPin, "--so-pin", "87654321")
	files, err := filepath.Glob(filepath.Join(objects, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the token left %v: %v", files, err)
	}
	for _, file := range files {
		if err := os.Chmod(file, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return made
}

// linkedTo are the libraries that the CA's image does not hold.
func linkedTo(t *testing.T, module string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ldd", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 2 && (strings.HasPrefix(fields[0], "libsqlite3") || strings.HasPrefix(fields[0], "libgcc_s")) {
			files = append(files, fields[2])
		}
	}
	return files
}

func (k softToken) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), program, args...)
	command.Env = append(os.Environ(), "KRYOPTIC_CONF="+k.conf)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
	return string(out)
}

// keys are the private keys in the token, as somebody else's program lists them.
func (k softToken) keys(t *testing.T) []string {
	t.Helper()
	listed := k.run(t, "pkcs11-tool", "--module", k.module, "--token-label", tokenLabel, "--login", "--pin", tokenPin, "--list-objects", "--type", "privkey")
	return strings.Split(listed, "Private Key Object")[1:]
}

// volume makes the folder a volume of the control plane's namespace, as those are that many nodes share.
func (k softToken) volume(t *testing.T) {
	t.Helper()
	size := map[string]any{"storage": "1Mi"}
	apply(t, manifest(t, map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolume", "metadata": map[string]any{"name": "e2e-token"},
		"spec": map[string]any{
			"capacity": size, "accessModes": []string{"ReadWriteMany"}, "persistentVolumeReclaimPolicy": "Retain",
			"storageClassName": "", "hostPath": map[string]any{"path": k.folder},
		},
	}))
	apply(t, manifest(t, map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": map[string]any{"name": "e2e-token", "namespace": bed.System},
		"spec": map[string]any{
			"accessModes": []string{"ReadWriteMany"}, "storageClassName": "", "volumeName": "e2e-token",
			"resources": map[string]any{"requests": size},
		},
	}))
	apply(t, manifest(t, map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "e2e-token", "namespace": bed.System},
		"stringData": map[string]any{"pin": tokenPin},
	}))
}

// keysAre says where issuing keys are made from now on. Without a module no token is set up.
func keysAre(ctx context.Context, folder, place, module string) error {
	token := map[string]any{"module": module, "label": "", "volume": nil, "env": []any{}, "pinSecret": map[string]any{"name": ""}}
	if module != "" {
		token = map[string]any{
			"module": module, "label": tokenLabel, "pinSecret": map[string]any{"name": "e2e-token"},
			"volume": map[string]any{"persistentVolumeClaim": map[string]any{"claimName": "e2e-token"}},
			"env": []any{
				map[string]any{"name": "KRYOPTIC_CONF", "value": "/opt/token/conf"},
				map[string]any{"name": "LD_LIBRARY_PATH", "value": "/opt/token/lib"},
			},
		}
	}
	return upgraded(ctx, folder, map[string]any{"ca": map[string]any{"keys": map[string]any{"place": place, "token": token}}})
}

// K-13, Q-46: both ways are ordinary rotations under load. Both replicas issue by the token, one of them is
// lost on the way, the key cannot be taken out, and none is left in the token at the end.
func TestIssuingKeyGoesIntoATokenAndBack(t *testing.T) {
	if !mesh.Own() {
		t.Skip("the nodes of another's cluster do not see a folder of this machine")
	}
	made, values := makeToken(t), t.TempDir()
	made.volume(t)
	module := "/opt/token/lib/" + filepath.Base(made.module)
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
			defer cancel()
			_ = keysAre(ctx, values, "secret", "")
		}
	})
	membersAre(t)
	client, server := pod(t, "shop", "client"), pod(t, "shop", "orders")
	load := underLoad(t, client, []string{"--workers=2", "--fresh", "http://web/healthz", "tcp://orders:7000"}, func() {
		if err := keysAre(t.Context(), values, "token", module); err != nil {
			t.Fatal(err)
		}
		membersAre(t)
		t.Log(trustDo(t, "rotate", "--wait", "--timeout", "120"))
		status := trust(t)
		if len(status.Anchors) != 1 || !strings.HasPrefix(status.Anchors[0].Key, "pkcs11:token="+tokenLabel+";") {
			t.Fatalf("the key is not in the token: %+v", status.Anchors)
		}
		keys := made.keys(t)
		if len(keys) != 1 || !strings.Contains(keys[0], "never extractable") {
			t.Errorf("the token holds %q", keys)
		}
		authorities := replicas(t)
		for _, replica := range authorities {
			if up := trellis.Sum(metrics(t, bed.System, replica.Metadata.Name), "trellis_ca_token_up", nil); up != 1 {
				t.Errorf("%s: the token is up: %v", replica.Metadata.Name, up)
			}
		}
		for _, lost := range authorities {
			if _, err := cluster.Run(t.Context(), "delete", "pod", "-n", bed.System, lost.Metadata.Name, "--wait=false"); err != nil {
				t.Fatal(err)
			}
			rotate(t, server, "orders")
			if err := rolledOut(t.Context(), bed.System, "trellis-ca"); err != nil {
				t.Fatal(err)
			}
		}
		membersAre(t)

		if err := keysAre(t.Context(), values, "secret", module); err != nil {
			t.Fatal(err)
		}
		membersAre(t)
		t.Log(trustDo(t, "rotate", "--wait", "--timeout", "120"))
		if status := trust(t); len(status.Anchors) != 1 || status.Anchors[0].Key != "" {
			t.Errorf("the key is still in the token: %+v", status.Anchors)
		}
		eventually(t, "the token to be empty", func() error {
			if keys := made.keys(t); len(keys) > 0 {
				return errors.New(strings.Join(keys, ""))
			}
			return nil
		})
		if err := keysAre(t.Context(), values, "secret", ""); err != nil {
			t.Fatal(err)
		}
	})
	if load.Failed != 0 {
		t.Errorf("%d of %d requests failed: %v", load.Failed, load.Sent, load.Errors)
	}
	t.Logf("%d requests, %d failed", load.Sent, load.Failed)
	membersAre(t)
}
