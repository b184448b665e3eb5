package main

// The images of Trellis: each binary in its own, with nothing that it does not need.

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	// controlUser runs the control plane.
	controlUser = 65532
	// proxyUser runs the data plane; the redirect rules let its traffic through.
	proxyUser = 1337
)

// Product returns the images of Trellis, made from the binaries in bin.
func Product(bin, version, nft string) ([]Spec, error) {
	if _, err := os.Stat(nft); err != nil {
		return nil, fmt.Errorf("--nft %s: %w: install nftables, or name the program's place", nft, err)
	}
	proxy := program(bin, "trellis-proxy")
	specs := []Spec{
		image("proxy", version, proxyUser, "trellis-proxy", proxy),
		// The redirect rules need uid 0 in the pod's network namespace, and nft beside the binary.
		image("capture", version, 0, "trellis-proxy", proxy, LayerSpec{Files: []File{{From: nft, To: "/usr/sbin/nft", Mode: 0o755}}}),
		image("ca", version, controlUser, "trellis-ca", authority(bin)),
		image("discovery", version, controlUser, "trellis-discovery", program(bin, "trellis-discovery")),
		image("injector", version, controlUser, "trellis-injector", program(bin, "trellis-injector")),
	}
	for _, spec := range specs {
		from := spec.Layers[1].Files[0].From
		if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is missing: run make build first, or name the binaries' folder with --bin", from)
		}
	}
	return specs, nil
}

func image(name, version string, user int, entrypoint string, layers ...LayerSpec) Spec {
	return Spec{
		Name:       "trellis.dev/" + name + ":" + version,
		Entrypoint: []string{"/usr/bin/" + entrypoint},
		Env:        map[string]string{"PATH": "/usr/sbin:/usr/bin"},
		User:       fmt.Sprintf("%d:%d", user, user),
		Labels: map[string]string{
			"org.opencontainers.image.title":    "Trellis " + name,
			"org.opencontainers.image.version":  version,
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
		Layers: append([]LayerSpec{base()}, layers...),
	}
}

// base is what glibc wants to find for itself: who the users are, and how names are looked up.
// It is the same in every image, so a node keeps it once.
func base() LayerSpec {
	return LayerSpec{Texts: []Text{
		{Path: "/etc/passwd", Content: "root:x:0:0:root:/:/sbin/nologin\n" +
			"proxy:x:1337:1337:trellis proxy:/:/sbin/nologin\n" +
			"trellis:x:65532:65532:trellis:/:/sbin/nologin\n"},
		{Path: "/etc/group", Content: "root:x:0:\nproxy:x:1337:\ntrellis:x:65532:\n"},
		{Path: "/etc/nsswitch.conf", Content: "passwd: files\ngroup: files\nhosts: files dns\n"},
	}}
}

func program(bin, name string) LayerSpec {
	return LayerSpec{Files: []File{{From: filepath.Join(bin, name), To: "/usr/bin/" + name, Mode: 0o755}}}
}

// authority is the CA, which loads the PKCS#11 module of whoever has one: glibc as a whole, since its parts
// have to be of one version, and a module's own would not be.
func authority(bin string) LayerSpec {
	layer := program(bin, "trellis-ca")
	layer.Libraries = []string{"libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libresolv.so.2"}
	return layer
}

// WorkspaceVersion reads the version of the Cargo workspace that the folder is in.
func WorkspaceVersion(folder string) (string, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return "", err
	}
	for {
		file, err := os.Open(filepath.Join(folder, "Cargo.toml"))
		if err == nil {
			defer file.Close()
			if version := packageVersion(bufio.NewScanner(file)); version != "" {
				return version, nil
			}
			return "", fmt.Errorf("%s has no version under [workspace.package]: give --version", file.Name())
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if folder == filepath.Dir(folder) {
			return "", errors.New("no Cargo.toml in this folder or above it: give --version")
		}
		folder = filepath.Dir(folder)
	}
}

func packageVersion(lines *bufio.Scanner) string {
	section := ""
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") {
			section = line
			continue
		}
		key, value, found := strings.Cut(line, "=")
		if found && section == "[workspace.package]" && strings.TrimSpace(key) == "version" {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}
