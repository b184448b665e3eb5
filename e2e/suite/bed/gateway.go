package bed

// The types of the Gateway API, from the module that defines them.

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// InstallGatewayAPI installs the standard channel of the version that the module in a folder requires, with
// the policy that keeps others from replacing it by an older one.
func InstallGatewayAPI(ctx context.Context, b *Bed, module string) error {
	const name = "sigs.k8s.io/gateway-api"
	if err := b.goRun(ctx, module, "mod", "download", name); err != nil {
		return err
	}
	source, err := b.goOutput(ctx, module, "list", "-m", "-f", "{{.Dir}}", name)
	if err != nil {
		return err
	}
	folder := filepath.Join(strings.TrimSpace(string(source)), "config", "crd", "standard")
	if _, err := os.Stat(folder); err != nil {
		return fmt.Errorf("the module %s has no types of its standard channel: %w", name, err)
	}
	// Too large for the annotation that a client-side apply would keep. The policy goes last: it judges the
	// types, and nothing it says may stand between them.
	const policy = "gateway.networking.k8s.io_vap_safeupgrades.yaml"
	entries, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return err
	}
	var names []string
	for _, entry := range entries {
		if filepath.Base(entry) != policy {
			names = append(names, "-f", entry)
		}
	}
	apply := []string{"apply", "--server-side", "--force-conflicts"}
	if _, err := b.Kube.Run(ctx, append(apply, names...)...); err != nil {
		return err
	}
	if _, err := b.Kube.Run(ctx, append([]string{"wait", "--for=condition=Established", "--timeout=30s"}, names...)...); err != nil {
		return err
	}
	_, err = b.Kube.Run(ctx, append(apply, "-f", filepath.Join(folder, policy))...)
	return err
}
