package suite

// What the API server writes down of keys, by the policy that the product ships.

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// accessRecord is an event of the API server's audit log, as far as it is looked at.
type accessRecord struct {
	Verb, Level    string
	User           struct{ Username string }
	ObjectRef      struct{ Resource, Namespace, Name, APIGroup string }
	ResponseStatus struct{ Code int }
	RequestObject  json.RawMessage
	ResponseObject json.RawMessage
}

// accessRecords are all of a namespace, with the lines that they stand in.
func accessRecords(t *testing.T, namespace string) (records []accessRecord, lines []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(mesh.Kubeconfig), "control", "audit*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the API server writes no audit log: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			// The last one may be on its way.
			if !strings.Contains(line, `"namespace":"`+namespace+`"`) || !strings.HasSuffix(line, "\n") {
				continue
			}
			var record accessRecord
			if err := json.Unmarshal([]byte(line), &record); err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			records, lines = append(records, record), append(lines, line)
		}
	}
	return records, lines
}

// whoever reads or writes a Secret, or a cryptographic resource, is in the API server's audit log, and
// nothing of what is in it.
func TestAccessToSecretsIsAudited(t *testing.T) {
	if !mesh.Own() {
		t.Skip("the API server is somebody else's, and so is its audit log")
	}
	const name = "e2e-audited"
	keeping(t, name)
	must(t, name, `
apiVersion: crypto.trellis.dev/v1
kind: QuantumKEMKeyPair
metadata: {name: pair}`)
	becomes(t, name, "QuantumKEMKeyPair", "pair", "Success")
	kept := secret(t, name, "pair")
	if _, _, err := cluster.Try(t.Context(), "", "get", "secret", "pair", "-n", name, "--as", "e2e-nobody"); err == nil {
		t.Error("somebody without any right reads the Secret")
	}
	const controller = "system:serviceaccount:trellis-system:trellis-ca"
	wanted := map[string]func(accessRecord) bool{
		"a user created the object": func(r accessRecord) bool {
			return r.ObjectRef.APIGroup == quantumGroup && r.ObjectRef.Resource == "quantumkemkeypairs" && r.Verb == "create" &&
				!strings.HasPrefix(r.User.Username, "system:") && r.ResponseStatus.Code == 201
		},
		"the controller created the Secret": func(r accessRecord) bool {
			return r.ObjectRef.Resource == "secrets" && r.Verb == "create" && r.User.Username == controller && r.ResponseStatus.Code == 201
		},
		"a user read the Secret": func(r accessRecord) bool {
			return r.ObjectRef.Resource == "secrets" && r.ObjectRef.Name == "pair" && r.Verb == "get" && r.User.Username != controller && r.ResponseStatus.Code == 200
		},
		"somebody was not let read it": func(r accessRecord) bool {
			return r.ObjectRef.Resource == "secrets" && r.ObjectRef.Name == "pair" && r.Verb == "get" && r.ResponseStatus.Code == 403
		},
	}
	eventually(t, "all of it is written down", func() error {
		records, _ := accessRecords(t, name)
		var missing []error
		for what, is := range wanted {
			found := false
			for _, record := range records {
				found = found || is(record)
			}
			if !found {
				missing = append(missing, fmt.Errorf("not in %d records: %s", len(records), what))
			}
		}
		return errors.Join(missing...)
	})
	records, lines := accessRecords(t, name)
	for i, record := range records {
		if record.Level != "Metadata" || record.RequestObject != nil || record.ResponseObject != nil {
			t.Errorf("a record of level %s has a body", record.Level)
		}
		for _, item := range []string{"private-key", "private_key"} {
			if strings.Contains(lines[i], kept.Data[item][40:104]) || strings.Contains(lines[i], "PRIVATE KEY") {
				t.Errorf("%s is in a record of %s %s", item, record.Verb, record.ObjectRef.Resource)
			}
		}
	}
}
