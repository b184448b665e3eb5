package main

// Programs that come with the distribution, and the Debian packages that hold them.

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

var packages = []struct{ program, name string }{
	{"containerd", "containerd"},
	{"containerd-shim-runc-v2", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{cniPlugins + "/bridge", "containernetworking-plugins"},
	{cniPlugins + "/host-local", "containernetworking-plugins"},
	{cniPlugins + "/portmap", "containernetworking-plugins"},
	{"nft", "nftables"},
	{"iptables", "iptables"},
	{"conntrack", "conntrack"},
	{"ip", "iproute2"},
}

func missingPackages() []string {
	var missing []string
	for _, p := range packages {
		if _, err := exec.LookPath(p.program); err != nil && !slices.Contains(missing, p.name) {
			missing = append(missing, p.name)
		}
	}
	return missing
}

// installPackages installs what is missing, with nothing that is only recommended.
func installPackages(ctx context.Context, output io.Writer) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	wanted := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("programs of these Debian packages are missing, and there is no apt-get to install them: %s; install their like by hand", wanted)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("missing Debian packages: %s; run this as root, or: apt-get install %s", wanted, wanted)
	}
	for _, arguments := range [][]string{
		{"update", "-q"},
		append([]string{"install", "-q", "-y", "--no-install-recommends"}, missing...),
	} {
		command := exec.CommandContext(ctx, "apt-get", arguments...)
		command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		command.Stdout, command.Stderr = output, output
		if err := command.Run(); err != nil {
			return fmt.Errorf("apt-get %s: %w", strings.Join(arguments, " "), err)
		}
	}
	if left := missingPackages(); len(left) > 0 {
		return fmt.Errorf("still missing after the installation: %s", strings.Join(left, " "))
	}
	return nil
}
