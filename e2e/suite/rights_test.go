package suite

// Who may do what with cryptographic resources and with what they keep: asked of the API server, one question
// for each of a table's words.

import (
	"fmt"
	"strings"
	"testing"

	"trellis.dev/e2e/suite/bed"
)

// quantumPlurals are the nine kinds, as RBAC names them.
var quantumPlurals = []string{
	"quantumrandomnumbers", "quantumkemkeypairs", "quantumencapsulatesecrets", "quantumdecapsulatesecrets", "quantumderivedkeys",
	"quantumsignaturekeypairs", "quantumsignmessages", "quantumverifysignatures", "quantumcertificates",
}

// may asks whether somebody may do something in a namespace: a verb, and what it is about.
func may(t *testing.T, who, namespace, question string) bool {
	t.Helper()
	args := append([]string{"auth", "can-i", "--as", who, "-n", namespace}, strings.Fields(question)...)
	answer, complaint, err := cluster.Try(t.Context(), "", args...)
	// Why not may stand behind it.
	switch word, _, _ := strings.Cut(strings.TrimSpace(answer), " "); word {
	case "yes":
		return true
	case "no":
		return false
	}
	t.Fatalf("kubectl %s: %q, %v\n%s", strings.Join(args, " "), answer, err, complaint)
	return false
}

// right is some questions that are all answered alike, by one who asks, in one namespace.
type right struct {
	who, namespace string
	allowed        bool
	verbs, what    string
}

// the control plane's accounts keep Secrets only where that was allowed, and give rights to nobody; users
// may with cryptographic resources what Kubernetes lets them do with anything else.
func TestRightsToCryptographicResources(t *testing.T) {
	const opened, closed = "e2e-opened", "e2e-closed"
	keeping(t, opened)
	namespace(t, closed, nil)
	account := func(name string) string { return "system:serviceaccount:" + bed.System + ":trellis-" + name }
	ca, injector, discovery := account("ca"), account("injector"), account("discovery")
	const (
		viewer, editor, admin = "e2e-viewer", "e2e-editor", "e2e-admin"
		all                   = "get,list,watch,create,update,patch,delete"
		nobodys               = "customresourcedefinitions.apiextensions.k8s.io validatingwebhookconfigurations mutatingwebhookconfigurations validatingadmissionpolicies"
	)
	kinds := strings.Join(quantumPlurals, "."+quantumGroup+" ") + "." + quantumGroup
	for user, role := range map[string]string{viewer: "view", editor: "edit", admin: "admin"} {
		if _, err := cluster.Run(t.Context(), "create", "rolebinding", role, "-n", opened, "--clusterrole="+role, "--user="+user); err != nil {
			t.Fatal(err)
		}
	}
	// Rights are not everywhere at once.
	eventually(t, "users have their roles", func() error {
		for _, user := range []string{viewer, editor, admin} {
			if !may(t, user, opened, "get configmaps") {
				return fmt.Errorf("%s has no right yet", user)
			}
		}
		if !may(t, ca, opened, "get secrets") {
			return fmt.Errorf("the CA was not allowed yet")
		}
		return nil
	})
	for _, right := range []right{
		{ca, opened, true, all, "secrets"},
		{ca, opened, true, "get,list,watch", "configmaps"},
		{ca, opened, false, "create,delete", kinds},
		{ca, opened, true, "list,watch", "rolebindings"},
		{ca, opened, false, "get,create,update,patch,delete", "rolebindings roles"},
		{ca, opened, false, "bind,escalate", "clusterroles"},
		{ca, opened, false, "impersonate", "serviceaccounts users groups"},
		{ca, opened, false, "create,patch", nobodys},
		{ca, closed, false, all, "secrets"},
		{ca, closed, false, "get,update", "configmaps"},
		{ca, closed, true, "get,list,watch", kinds},
		{ca, bed.System, true, "get,update", "secrets/trellis-ca-root"},
		{ca, bed.System, true, "get", "secrets/trellis-crypto-fingerprint-key"},
		{ca, bed.System, false, "get,update,delete", "secrets secrets/trellis-injector-tls"},
		{injector, opened, false, all, "secrets rolebindings " + quantumPlurals[0] + "." + quantumGroup},
		{injector, closed, false, all, "secrets rolebindings"},
		{injector, opened, false, "create,update,delete", nobodys},
		{injector, opened, false, "patch", nobodys},
		{injector, opened, true, "patch", "validatingwebhookconfigurations/trellis-injector mutatingwebhookconfigurations/trellis-injector"},
		{injector, bed.System, true, "get,update", "secrets/trellis-injector-tls"},
		{injector, bed.System, false, "get,update,delete", "secrets secrets/trellis-ca-root"},
		{discovery, opened, false, all, "secrets rolebindings " + quantumPlurals[1] + "." + quantumGroup},
		{discovery, closed, false, all, "secrets rolebindings"},
		{discovery, bed.System, false, all, "secrets secrets/trellis-ca-root"},
		{discovery, opened, false, "create,patch", nobodys + " pods"},
		{discovery, opened, true, "create,patch", "deployments.apps services serviceaccounts"},
		{viewer, opened, true, "get", kinds},
		{viewer, opened, false, "create,delete", kinds},
		{viewer, opened, false, all, "secrets rolebindings"},
		{editor, opened, true, "get,create,delete", kinds},
		{editor, opened, true, "get", "secrets"},
		{editor, opened, false, "create,patch", "rolebindings " + nobodys},
		{admin, opened, true, "get,create,delete", kinds},
		{admin, opened, true, "create,patch", "rolebindings"},
		{admin, opened, false, "create,patch", nobodys},
		{viewer, closed, false, "get", kinds},
		{editor, closed, false, "get,create", "secrets " + quantumPlurals[0] + "." + quantumGroup},
		{admin, closed, false, "get,create", "secrets rolebindings " + quantumPlurals[0] + "." + quantumGroup},
	} {
		for what := range strings.FieldsSeq(right.what) {
			for verb := range strings.SplitSeq(right.verbs, ",") {
				if may(t, right.who, right.namespace, verb+" "+what) != right.allowed {
					t.Errorf("%s may %s %s in %s: %t", right.who, verb, what, right.namespace, !right.allowed)
				}
			}
		}
	}
	// What became of an object says the CA, and nobody who may write the object.
	for _, plural := range quantumPlurals {
		question := "patch " + plural + "." + quantumGroup + " --subresource=status"
		if !may(t, ca, closed, question) {
			t.Errorf("the CA may not %s", question)
		}
		for _, user := range []string{viewer, editor, admin} {
			if may(t, user, opened, question) {
				t.Errorf("%s may %s", user, question)
			}
		}
	}
}
