// Package bed prepares what the end-to-end tests lie on: a cluster, images, and Trellis installed in it.
package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"trellis.dev/e2e/suite/kube"
)

// Names that the whole suite uses.
const (
	System  = "trellis-system"
	Release = "trellis"
	// Inject is the label and annotation that switches injection.
	Inject = "trellis.dev/inject"
)

// Settings come from the environment, so that the suite runs against any cluster.
type Settings struct {
	// Kubeconfig of a foreign cluster; the suite brings up its own when empty.
	Kubeconfig string
	Kubectl    string
	Helm       string
	// Load is a command to which image archives are appended, for a foreign cluster.
	Load string
	// Binaries is the folder of the release binaries.
	Binaries string
	// Keep leaves cluster and installation as they are at the end, and takes over what it finds at
	// the beginning: for whoever works on a test.
	Keep bool
}

// FromEnvironment reads the settings.
func FromEnvironment(root string) Settings {
	get := func(name, otherwise string) string {
		if value := os.Getenv(name); value != "" {
			return value
		}
		return otherwise
	}
	return Settings{
		Kubeconfig: os.Getenv("KUBECONFIG"),
		Kubectl:    get("KUBECTL", "kubectl"),
		Helm:       get("HELM", "helm"),
		Load:       os.Getenv("TRELLIS_E2E_LOAD"),
		Binaries:   get("TRELLIS_E2E_BIN", filepath.Join(root, "bin")),
		Keep:       os.Getenv("TRELLIS_E2E_KEEP") != "",
	}
}

// Bed is a cluster with Trellis in it.
type Bed struct {
	Settings
	// Root of the repository.
	Root    string
	Kube    *kube.Client
	Version string
	// Images stands for the content of all images: pods that carry it are replaced when it changes,
	// although the images' names stay.
	Images string
	// Nodes that run pods, at least one.
	Nodes []string
	log   io.Writer
	cache string
	// own is true where the suite brought the cluster up.
	own bool
}

// New prepares nothing yet.
func New(root string, settings Settings, log io.Writer) (*Bed, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	cache = filepath.Join(cache, "trellis", "e2e")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	return &Bed{Settings: settings, Root: root, log: log, cache: cache, own: settings.Kubeconfig == ""}, nil
}

// Up brings up the cluster, builds and loads images, and installs the chart.
func (b *Bed) Up(ctx context.Context, equipment Equipment) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"cluster", b.clusterUp},
		{"images", func(ctx context.Context) error { return b.images(ctx, equipment) }},
		{"prepare", func(ctx context.Context) error {
			if equipment.Prepare == nil {
				return nil
			}
			return equipment.Prepare(ctx, b)
		}},
		{"install", func(ctx context.Context) error { return b.install(ctx, equipment.Values) }},
	} {
		begin := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Fprintf(b.log, "%-8s %5.1f s\n", step.name, time.Since(begin).Seconds())
	}
	return nil
}

// Down takes away what Up brought, whatever state it is in.
func (b *Bed) Down(ctx context.Context) error {
	if b.Keep {
		fmt.Fprintln(b.log, "TRELLIS_E2E_KEEP is set: everything is left as it is")
		return nil
	}
	if b.own {
		// Not straight to the log: after an interrupt nobody may be reading it any more, which would
		// end the program that writes.
		said, err := b.output(ctx, b.program(), "down")
		fmt.Fprint(b.log, said)
		return err
	}
	if b.Kube == nil {
		return nil
	}
	_, shop := b.Kube.Run(ctx, "delete", "namespace", "-l", "trellis.dev/e2e=suite", "--ignore-not-found")
	_, release := b.HelmRun(ctx, "uninstall", Release, "-n", System, "--ignore-not-found", "--wait")
	_, own := b.Kube.Run(ctx, "delete", "namespace", System, "--ignore-not-found")
	return errors.Join(shop, release, own)
}

func (b *Bed) clusterUp(ctx context.Context) error {
	if !b.own {
		b.Kube = &kube.Client{Kubectl: b.Kubectl, Config: b.Kubeconfig}
		return b.findNodes(ctx)
	}
	if err := b.run(ctx, b.program(), "build"); err != nil {
		return err
	}
	if err := b.run(ctx, b.program(), "up", "--nodes", "2"); err != nil {
		return err
	}
	config, err := b.output(ctx, b.program(), "kubeconfig")
	if err != nil {
		return err
	}
	b.Kubeconfig = strings.TrimSpace(config)
	// The cluster's own kubectl lies beside its kubeconfig.
	b.Kube = &kube.Client{Kubectl: filepath.Join(filepath.Dir(b.Kubeconfig), "bin", "kubectl"), Config: b.Kubeconfig}
	return b.findNodes(ctx)
}

func (b *Bed) findNodes(ctx context.Context) error {
	var nodes kube.List[kube.Object]
	if err := b.Kube.Get(ctx, &nodes, "nodes"); err != nil {
		return err
	}
	b.Nodes = nil
	for _, node := range nodes.Items {
		b.Nodes = append(b.Nodes, node.Metadata.Name)
	}
	if len(b.Nodes) < 2 {
		return fmt.Errorf("the cluster has %d nodes: what crosses between two nodes is half of what the suite proves, give it two", len(b.Nodes))
	}
	return nil
}

// program is the cluster program of the repository.
func (b *Bed) program() string { return filepath.Join(b.Root, "e2e", "cluster", "cluster") }

// HelmRun runs helm against the cluster.
func (b *Bed) HelmRun(ctx context.Context, args ...string) (string, error) {
	if b.own {
		return b.output(ctx, b.program(), append([]string{"helm"}, args...)...)
	}
	return b.output(ctx, b.Helm, args...)
}

func (b *Bed) run(ctx context.Context, program string, args ...string) error {
	command := b.command(ctx, program, args...)
	command.Stdout, command.Stderr = b.log, b.log
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(program), strings.Join(args, " "), err)
	}
	return nil
}

func (b *Bed) output(ctx context.Context, program string, args ...string) (string, error) {
	command := b.command(ctx, program, args...)
	var complaint strings.Builder
	command.Stderr = &complaint
	output, err := command.Output()
	if err != nil {
		return string(output), fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(program), strings.Join(args, " "), err, complaint.String(), output)
	}
	return string(output), nil
}

func (b *Bed) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, program, args...)
	if b.Kubeconfig != "" {
		command.Env = append(os.Environ(), "KUBECONFIG="+b.Kubeconfig)
	}
	command.WaitDelay = 10 * time.Second
	return command
}

// Trellis runs the product's own command line.
func (b *Bed) Trellis(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	command := b.command(ctx, filepath.Join(b.Binaries, "trellis"), args...)
	helm := b.Helm
	if b.own {
		// The cluster's own helm lies beside its kubectl.
		helm = filepath.Join(filepath.Dir(b.Kube.Kubectl), "helm")
	}
	if filepath.IsAbs(helm) {
		command.Env = append(command.Env, "PATH="+filepath.Dir(helm)+":"+os.Getenv("PATH"))
	}
	var out, complaint strings.Builder
	command.Stdout, command.Stderr = &out, &complaint
	err = command.Run()
	return out.String(), complaint.String(), err
}
