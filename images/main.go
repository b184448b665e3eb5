// Command images writes OCI image archives without a container daemon: the five images of Trellis
// from its release binaries, or whatever a specification file describes.
//
// The same input gives the same digest, whoever builds it and whenever.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// variables collects repeated --set NAME=VALUE flags.
type variables map[string]string

func (v variables) String() string { return "" }

func (v variables) Set(assignment string) error {
	name, value, found := strings.Cut(assignment, "=")
	if !found || name == "" {
		return fmt.Errorf("%q is not NAME=VALUE", assignment)
	}
	v[name] = value
	return nil
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	bin := flags.String("bin", "../bin", "folder of the release binaries")
	into := flags.String("out", "../bin/images", "folder that receives one archive for each image")
	version := flags.String("version", "", "tag of the images (default: the workspace's version)")
	spec := flags.String("spec", "", "build the images of this JSON file instead of Trellis's own")
	nft := flags.String("nft", "/usr/sbin/nft", "the nft program that goes into the capture image")
	set := variables{}
	flags.Var(set, "set", "NAME=VALUE that ${NAME} in the specification's paths stands for; repeatable")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q: every setting is a flag, see --help", flags.Arg(0))
	}

	specs, err := wanted(*spec, set, *bin, *version, *nft)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*into, 0o755); err != nil {
		return err
	}
	for _, s := range specs {
		image, err := Build(s)
		if err != nil {
			return fmt.Errorf("image %s: %w", s.Name, err)
		}
		path := filepath.Join(*into, s.file())
		if err := image.WriteFile(path); err != nil {
			return fmt.Errorf("image %s: write %s: %w", s.Name, path, err)
		}
		fmt.Fprintf(out, "%s  %s  %.1f MB  %s\n", s.Name, image.Digest(), float64(image.Size())/1e6, path)
	}
	return nil
}

func wanted(spec string, set variables, bin, version, nft string) ([]Spec, error) {
	if spec != "" {
		return LoadSpecs(spec, set)
	}
	if len(set) > 0 {
		return nil, errors.New("--set has a meaning only together with --spec")
	}
	if version == "" {
		var err error
		if version, err = WorkspaceVersion("."); err != nil {
			return nil, err
		}
	}
	return Product(bin, version, nft)
}
