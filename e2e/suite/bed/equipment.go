package bed

// What a suite wants in its cluster beside Trellis.

import (
	"context"
	"path/filepath"
)

// Equipment of one suite.
type Equipment struct {
	// Name tells its folder of images from those of other suites.
	Name string
	// Images builds the programs that the suite runs, and returns for each specification of images what the
	// program in images/ is to be called with. Those of Trellis itself come by themselves.
	Images func(context.Context, *Bed) ([][]string, error)
	// Prepare puts into the cluster what has to be there before Trellis; may be nil.
	Prepare func(context.Context, *Bed) error
	// Values for the chart, as arguments of helm.
	Values []string
}

// Shop is the equipment of the end-to-end suite: applications, instruments, a collector for metrics, and the
// types of the Gateway API.
var Shop = Equipment{
	Name:   "images",
	Images: shopImages,
	// Grants of references between namespaces are a kind of this API, and gateways serve certificates.
	Prepare: func(ctx context.Context, b *Bed) error {
		return InstallGatewayAPI(ctx, b, filepath.Join(b.Root, "e2e", "conformance"))
	},
	Values: []string{"--set", "otlp.endpoint=" + CollectorEndpoint},
}

func shopImages(ctx context.Context, b *Bed) ([][]string, error) {
	if err := b.debianPackages(ctx); err != nil {
		return nil, err
	}
	apps := filepath.Join(b.cache, "apps")
	if err := b.GoBuild(ctx, filepath.Join(b.Root, "e2e", "apps"), apps+"/", "./again", "./web", "./orders", "./load", "./foreign"); err != nil {
		return nil, err
	}
	if err := b.GoBuild(ctx, filepath.Join(b.Root, "e2e", "workload"), filepath.Join(apps, "peer"), "."); err != nil {
		return nil, err
	}
	if err := b.GoBuild(ctx, filepath.Join(b.Root, "e2e", "talk"), filepath.Join(apps, "talk"), "."); err != nil {
		return nil, err
	}
	toolbox, err := b.toolbox(ctx)
	if err != nil {
		return nil, err
	}
	servers := []string{"--spec", filepath.Join(b.Root, "e2e", "apps", "servers.json"), "--set", "APPS=" + apps, "--set", "TOOLS=" + toolbox}
	unpacked, err := b.unpacked(ctx, filepath.Join(b.Root, "e2e", "apps", "debian.json"))
	if err != nil {
		return nil, err
	}
	for name, folder := range unpacked {
		servers = append(servers, "--set", name+"="+folder)
	}
	collector, err := b.collector(ctx)
	if err != nil {
		return nil, err
	}
	intruder, err := b.intruder(ctx)
	if err != nil {
		return nil, err
	}
	return [][]string{
		{"--spec", filepath.Join(b.Root, "e2e", "apps", "images.json"), "--set", "APPS=" + apps},
		{"--spec", filepath.Join(b.Root, "e2e", "suite", "bed", "instruments.json"), "--set", "COLLECTOR=" + collector, "--set", "INTRUDER=" + intruder},
		servers,
	}, nil
}
