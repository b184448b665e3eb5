package bed

// Servers as the world runs them: Debian's, unpacked into the cache and not installed, since installing would
// start them.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// unpacked returns the folders that the packages of a file are unpacked in, by the name that they have there.
func (b *Bed) unpacked(ctx context.Context, file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var lists map[string][]string
	if err := json.Unmarshal(text, &lists); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	folders := map[string]string{}
	for name, packages := range lists {
		if folders[name], err = b.unpack(ctx, strings.ToLower(name), packages); err != nil {
			return nil, fmt.Errorf("packages of %s: %w", name, err)
		}
	}
	return folders, nil
}

// unpack is done once for a list and a release of Debian.
func (b *Bed) unpack(ctx context.Context, name string, packages []string) (string, error) {
	release, err := os.ReadFile("/etc/debian_version")
	if err != nil {
		return "", fmt.Errorf("the suite's servers are Debian's: run it there: %w", err)
	}
	sum := sha256.Sum256([]byte(string(release) + strings.Join(packages, " ")))
	root := filepath.Join(b.cache, "debian-"+name+"-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	building, err := os.MkdirTemp(b.cache, "debian-unpacking-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(building)
	// Where the folders are links on a machine, packages put their files behind them.
	for _, folder := range []string{"bin", "lib", "lib64", "sbin"} {
		if err := os.MkdirAll(filepath.Join(building, "root", "usr", folder), 0o755); err != nil {
			return "", err
		}
		if err := os.Symlink("usr/"+folder, filepath.Join(building, "root", folder)); err != nil {
			return "", err
		}
	}
	if err := b.download(ctx, building, packages); err != nil {
		return "", err
	}
	archives, err := filepath.Glob(filepath.Join(building, "*.deb"))
	if err != nil {
		return "", err
	}
	for _, archive := range archives {
		if err := extract(ctx, archive, filepath.Join(building, "root")); err != nil {
			return "", fmt.Errorf("%s: %w", filepath.Base(archive), err)
		}
	}
	return root, os.Rename(filepath.Join(building, "root"), root)
}

// download fetches the newest version that Debian has of each package, also where another one from
// elsewhere is installed.
func (b *Bed) download(ctx context.Context, folder string, packages []string) error {
	var wanted []string
	for _, name := range packages {
		version, err := b.newest(ctx, name)
		if err != nil {
			return err
		}
		wanted = append(wanted, name+"="+version)
	}
	command := b.command(ctx, "apt-get", append([]string{"download", "-q", "-q"}, wanted...)...)
	command.Dir = folder
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download %s: %w\n%s", strings.Join(wanted, " "), err, output)
	}
	return nil
}

func (b *Bed) newest(ctx context.Context, name string) (string, error) {
	for _, refresh := range []bool{false, true} {
		if refresh {
			if err := b.run(ctx, "apt-get", "update", "-q"); err != nil {
				return "", err
			}
		}
		// PACKAGE | VERSION | SOURCE, the newest version first.
		table, err := b.output(ctx, "apt-cache", "madison", name)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(table) {
			if fields := strings.Split(line, "|"); len(fields) == 3 && strings.HasSuffix(strings.TrimSpace(fields[2]), "Packages") {
				return strings.TrimSpace(fields[1]), nil
			}
		}
	}
	return "", fmt.Errorf("the package sources of this machine have no %s: the suite wants Debian 12", name)
}

func extract(ctx context.Context, archive, root string) error {
	unpack := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", archive)
	write := exec.CommandContext(ctx, "tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", root)
	var err error
	if write.Stdin, err = unpack.StdoutPipe(); err != nil {
		return err
	}
	var complaint strings.Builder
	unpack.Stderr, write.Stderr = &complaint, &complaint
	if err := write.Start(); err != nil {
		return err
	}
	if err := unpack.Run(); err != nil {
		return fmt.Errorf("dpkg-deb: %w: %s", err, complaint.String())
	}
	if err := write.Wait(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, complaint.String())
	}
	return nil
}

// tools are other people's clients, each the newest version whose parts can be had.
var tools = []string{
	"fortio.org/fortio@v1.68.2",
	"github.com/bojand/ghz/cmd/ghz@v0.93.0",
	"github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4",
	"github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible",
}

// toolbox builds the tools into a folder of the cache.
func (b *Bed) toolbox(ctx context.Context) (string, error) {
	sum := sha256.Sum256([]byte(strings.Join(tools, " ")))
	folder := filepath.Join(b.cache, "tools-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(folder); err == nil {
		return folder, nil
	}
	building, err := os.MkdirTemp(b.cache, "tools-building-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(building)
	if err := os.Chmod(building, 0o755); err != nil {
		return "", err
	}
	for _, tool := range slices.Sorted(slices.Values(tools)) {
		command := b.command(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", tool)
		command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=", "GOBIN="+building)
		if output, err := command.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go install %s: %w\n%s", tool, err, output)
		}
	}
	return folder, os.Rename(building, folder)
}
