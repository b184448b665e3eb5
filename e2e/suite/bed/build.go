package bed

// Images: Trellis's own, the applications', and the instruments that the suite measures with.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// collectorVersion is the newest of which all parts can be had.
const collectorVersion = "v0.155.0"

// images builds all images and loads them into the nodes.
func (b *Bed) images(ctx context.Context, equipment Equipment) error {
	specifications, err := equipment.Images(ctx, b)
	if err != nil {
		return err
	}
	// The version that the images carry is the one that the chart asks for by itself.
	if b.Version, err = b.chartVersion(); err != nil {
		return err
	}
	out := filepath.Join(b.cache, equipment.Name)
	sum := sha256.New()
	images := filepath.Join(b.Root, "images")
	for _, args := range append([][]string{{"--bin", b.Binaries, "--version", b.Version}}, specifications...) {
		listing, err := b.goOutput(ctx, images, append([]string{"run", ".", "--out", out}, args...)...)
		if err != nil {
			return err
		}
		sum.Write(listing)
	}
	b.Images = hex.EncodeToString(sum.Sum(nil)[:6])
	if !b.Loads() {
		fmt.Fprintf(b.log, "TRELLIS_E2E_LOAD is not set: the images of %s are taken to be in the cluster\n", out)
		return nil
	}
	return b.load(ctx, out)
}

// debianPackages installs what the instruments' images are made of, where it is missing.
func (b *Bed) debianPackages(ctx context.Context) error {
	var missing []string
	for program, name := range map[string]string{
		"/usr/bin/tcpdump": "tcpdump", "/usr/bin/prometheus": "prometheus", "/usr/bin/python3.11": "python3.11",
		"/usr/sbin/nft": "nftables", "/usr/sbin/iptables": "iptables", "/usr/sbin/ipset": "ipset",
	} {
		if _, err := os.Stat(program); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("missing %s: install them, or run the suite on Debian 12", strings.Join(missing, ", "))
	}
	if err := b.run(ctx, "apt-get", "update", "-q"); err != nil {
		return err
	}
	return b.run(ctx, "apt-get", append([]string{"install", "-q", "-y", "--no-install-recommends"}, missing...)...)
}

// collector builds an OpenTelemetry Collector with only what the suite uses.
func (b *Bed) collector(ctx context.Context) (string, error) {
	manifest, err := os.ReadFile(filepath.Join(b.Root, "e2e", "suite", "bed", "collector.yaml"))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append(manifest, collectorVersion...))
	folder := filepath.Join(b.cache, "collector-"+hex.EncodeToString(sum[:6]))
	program := filepath.Join(folder, "otelcol")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	building, err := os.MkdirTemp(b.cache, "collector-building-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(building)
	text := strings.ReplaceAll(string(manifest), "${VERSION}", collectorVersion)
	text = strings.ReplaceAll(text, "${FOLDER}", building)
	file := filepath.Join(building, "builder.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return "", err
	}
	if err := b.goRun(ctx, building, "run", "go.opentelemetry.io/collector/cmd/builder@"+collectorVersion, "--config", file); err != nil {
		return "", err
	}
	if err := os.RemoveAll(folder); err != nil {
		return "", err
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		return "", err
	}
	return program, os.Rename(filepath.Join(building, "otelcol"), program)
}

// intruder builds the program that tries to break in, from the workspace's own cryptography.
func (b *Bed) intruder(ctx context.Context) (string, error) {
	target := os.Getenv("CARGO_TARGET_DIR")
	if target == "" {
		target = filepath.Join(filepath.Dir(b.cache), "target")
	}
	command := b.command(ctx, "cargo", "build", "--locked", "-p", "trellis-intruder")
	command.Dir = b.Root
	command.Env = append(os.Environ(), "CARGO_TARGET_DIR="+target)
	output, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cargo build -p trellis-intruder: %w\n%s", err, output)
	}
	return filepath.Join(target, "debug", "trellis-intruder"), nil
}

// Cache is a folder for what is built and kept between runs.
func (b *Bed) Cache(name string) string { return filepath.Join(b.cache, name) }

// GoBuild builds programs of the module in a folder, small and the same wherever they are built.
func (b *Bed) GoBuild(ctx context.Context, folder, out string, packages ...string) error {
	return b.goRun(ctx, folder, append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", out}, packages...)...)
}

// goRun runs the go command in a folder, without cgo: what it builds shall run in an empty image.
func (b *Bed) goRun(ctx context.Context, folder string, args ...string) error {
	_, err := b.goOutput(ctx, folder, args...)
	return err
}

func (b *Bed) goOutput(ctx context.Context, folder string, args ...string) ([]byte, error) {
	command := b.command(ctx, "go", args...)
	command.Dir = folder
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	output, err := command.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, output)
	}
	return output, nil
}

func (b *Bed) chartVersion() (string, error) {
	chart, err := os.ReadFile(filepath.Join(b.Root, "charts", "trellis", "Chart.yaml"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(chart)) {
		if value, found := strings.CutPrefix(line, "appVersion:"); found {
			return strings.Trim(strings.TrimSpace(value), `"`), nil
		}
	}
	return "", fmt.Errorf("charts/trellis/Chart.yaml has no appVersion")
}
