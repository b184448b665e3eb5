package main

// What a cluster is made of, built from Go modules into the cache. A result's name holds the hash of all
// it was made from, so it is built once for all trees that agree on that.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	kubernetesVersion = "v1.36.3"
	helmVersion       = "v4.3.1"

	scratchPrefix = ".building-"

	// sourceVariable names the folder of this program's sources; the wrapper script sets it.
	sourceVariable = "TRELLIS_CLUSTER_SOURCE"
)

// Built is where the results lie.
type Built struct {
	Kube    string `json:"kube"`
	Helm    string `json:"helm"`
	Coredns string `json:"coredns"`
	Pause   string `json:"pause"`
}

// artifact is one thing to build: a program or, with an image, an archive of that program.
type artifact struct {
	name    string
	folder  string
	target  string
	defines map[string]string
	image   *Image
}

var (
	kubeArtifact = artifact{name: "kube", folder: "kube", target: ".", defines: map[string]string{
		"k8s.io/component-base/version.gitVersion":   kubernetesVersion,
		"k8s.io/component-base/version.gitMajor":     "1",
		"k8s.io/component-base/version.gitMinor":     "36",
		"k8s.io/component-base/version.gitTreeState": "clean",
	}}
	corednsArtifact = artifact{name: "coredns", folder: "coredns", target: ".",
		image: &Image{Name: corednsImage, Program: "coredns", User: "65532:65532"}}
	pauseArtifact = artifact{name: "pause", folder: "pause", target: ".",
		image: &Image{Name: pauseImage, Program: "pause", User: "65535:65535"}}
	helmArtifact = artifact{name: "helm", folder: "helm", target: "helm.sh/helm/v4/cmd/helm", defines: map[string]string{
		"helm.sh/helm/v4/internal/version.version": helmVersion,
	}}
)

// builder builds into one cache.
type builder struct {
	source string
	bin    string
	output io.Writer
	// verbose: also what there was to do nothing about.
	verbose bool
}

func newBuilder(layout Layout, output io.Writer, verbose bool) (builder, error) {
	source := os.Getenv(sourceVariable)
	if source == "" {
		return builder{}, fmt.Errorf("%s is not set; run this program by its script e2e/cluster/cluster", sourceVariable)
	}
	return builder{source: source, bin: layout.Bin, output: output, verbose: verbose}, nil
}

// all builds what is missing.
func (b builder) all(ctx context.Context) (Built, error) {
	if err := installPackages(ctx, b.output); err != nil {
		return Built{}, err
	}
	lock, err := acquire(ctx, filepath.Join(b.bin, ".lock"), func() {
		fmt.Fprintln(b.output, "another build into the same cache is under way; waiting for it")
	})
	if err != nil {
		return Built{}, err
	}
	defer lock.release()
	if err := b.removeScratch(); err != nil {
		return Built{}, err
	}
	var built Built
	for _, step := range []struct {
		artifact artifact
		result   *string
	}{
		{kubeArtifact, &built.Kube},
		{corednsArtifact, &built.Coredns},
		{pauseArtifact, &built.Pause},
		{helmArtifact, &built.Helm},
	} {
		if *step.result, err = b.one(ctx, step.artifact); err != nil {
			return Built{}, fmt.Errorf("build of %s: %w", step.artifact.name, err)
		}
	}
	return built, nil
}

// removeScratch takes away what builds left that were killed.
func (b builder) removeScratch() error {
	left, err := filepath.Glob(filepath.Join(b.bin, scratchPrefix+"*"))
	for _, folder := range left {
		err = errors.Join(err, os.RemoveAll(folder))
	}
	return err
}

func (b builder) one(ctx context.Context, a artifact) (string, error) {
	began := time.Now()
	key, err := b.key(a)
	if err != nil {
		return "", err
	}
	result := filepath.Join(b.bin, a.name+"-"+key)
	if a.image != nil {
		result += ".tar"
	}
	if _, err := os.Stat(result); err == nil {
		if b.verbose {
			fmt.Fprintf(b.output, "%-8s there already  %s\n", a.name, result)
		}
		return result, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	fmt.Fprintf(b.output, "%-8s building\n", a.name)
	if err := b.make(ctx, a, result); err != nil {
		return "", err
	}
	fmt.Fprintf(b.output, "%-8s built in %.1f s  %s\n", a.name, time.Since(began).Seconds(), result)
	return result, nil
}

func (b builder) make(ctx context.Context, a artifact, result string) error {
	scratch, err := os.MkdirTemp(b.bin, scratchPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	program := filepath.Join(scratch, "program")
	if err := b.compile(ctx, a, program); err != nil {
		return err
	}
	if a.image == nil {
		return os.Rename(program, result)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := a.image.write(&archive, data); err != nil {
		return err
	}
	return writeFile(result, archive.Bytes(), 0o644)
}

func (b builder) compile(ctx context.Context, a artifact, program string) error {
	command := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-buildvcs=false", "-trimpath",
		"-ldflags", a.linkFlags(), "-o", program, a.target)
	command.Dir = filepath.Join(b.source, a.folder)
	// Static: it runs in images with nothing else in them.
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	command.Stdout, command.Stderr = b.output, b.output
	return command.Run()
}

func (a artifact) linkFlags() string {
	flags := []string{"-s", "-w"}
	for _, name := range sortedKeys(a.defines) {
		flags = append(flags, "-X", name+"="+a.defines[name])
	}
	return strings.Join(flags, " ")
}

// key hashes all that the result depends on: sources, modules, compiler, flags and form.
func (b builder) key(a artifact) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), runtime.GOOS, runtime.GOARCH, a.target, a.linkFlags())
	if a.image != nil {
		fmt.Fprintf(hash, "%+v\n%s", *a.image, archiveSource)
	}
	folder := filepath.Join(b.source, a.folder)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		name := entry.Name()
		source := strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
		if !source && name != "go.mod" && name != "go.sum" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", name, len(text), text)
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}
