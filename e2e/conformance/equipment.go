// Package conformance runs the conformance suite of the Gateway API against Trellis on a real cluster.
package conformance

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"trellis.dev/e2e/suite/bed"
)

// className is the GatewayClass that the chart makes.
const className = "trellis"

// namespaces that the suite makes for itself: those in which gateways look for their certificates, and those
// whose pods are in the mesh.
var (
	certificateNamespaces = []string{"gateway-conformance-infra", "gateway-conformance-web-backend", "gateway-conformance-app-backend"}
	meshNamespaces        = []string{"gateway-conformance-mesh", "gateway-conformance-mesh-consumer"}
)

// equipment is what the suite wants: the images that its manifests name, the types of the API, and its
// namespaces, in which the chart gives gateways their certificates.
func equipment(root string) (bed.Equipment, error) {
	wants := bed.Equipment{
		Name: "conformance-images",
		Images: func(ctx context.Context, b *bed.Bed) ([][]string, error) {
			programs := b.Cache("conformance")
			own := filepath.Join(b.Root, "e2e", "conformance")
			for _, build := range [][]string{
				{own, "sigs.k8s.io/gateway-api/conformance/echo-basic", "./echo"},
				// The suite's own tests of UDP ask a name server; its pod must be there for the others to begin.
				{filepath.Join(b.Root, "e2e", "cluster", "coredns"), "."},
			} {
				if err := b.GoBuild(ctx, build[0], programs+"/", build[1:]...); err != nil {
					return nil, err
				}
			}
			return [][]string{{"--spec", filepath.Join(own, "images.json"), "--set", "PROGRAMS=" + programs}}, nil
		},
		Prepare: func(ctx context.Context, b *bed.Bed) error {
			if err := bed.InstallGatewayAPI(ctx, b, filepath.Join(b.Root, "e2e", "conformance")); err != nil {
				return err
			}
			return makeNamespaces(ctx, b)
		},
	}
	values, err := os.ReadFile(filepath.Join(root, "charts", "trellis", "values.yaml"))
	if err != nil {
		return wants, err
	}
	if strings.Contains(string(values), "certificateNamespaces:") {
		wants.Values = []string{"--set", "gateway.certificateNamespaces={" + strings.Join(certificateNamespaces, ",") + "}"}
	}
	return wants, nil
}

// makeNamespaces makes them before anything is in them: the suite adds its own labels.
func makeNamespaces(ctx context.Context, b *bed.Bed) error {
	var items []any
	add := func(name string, labels map[string]string) {
		labels["trellis.dev/e2e"] = "suite"
		items = append(items, map[string]any{
			"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": labels},
		})
	}
	for _, name := range certificateNamespaces {
		add(name, map[string]string{})
	}
	for _, name := range meshNamespaces {
		add(name, map[string]string{bed.Inject: "enabled"})
	}
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		return err
	}
	_, err = b.Kube.Apply(ctx, string(text))
	return err
}
