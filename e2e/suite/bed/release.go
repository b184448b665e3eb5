package bed

// Another release to upgrade to: the same programs under the next version, in images and chart.

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Loads says whether images can be brought into the cluster after its beginning.
func (b *Bed) Loads() bool { return b.own || b.Load != "" }

// NextRelease makes a release of the given version in an empty folder, loads its images, and returns its
// chart.
func (b *Bed) NextRelease(ctx context.Context, folder, version string) (chart string, err error) {
	archives := filepath.Join(folder, "images")
	if _, err := b.goOutput(ctx, filepath.Join(b.Root, "images"), "run", ".", "--out", archives, "--bin", b.Binaries, "--version", version); err != nil {
		return "", err
	}
	if err := b.load(ctx, archives); err != nil {
		return "", err
	}
	chart = filepath.Join(folder, "chart")
	if err := os.CopyFS(chart, os.DirFS(b.Chart())); err != nil {
		return "", err
	}
	about := filepath.Join(chart, "Chart.yaml")
	text, err := os.ReadFile(about)
	if err != nil {
		return "", err
	}
	var lines strings.Builder
	for line := range strings.Lines(string(text)) {
		if name, _, _ := strings.Cut(line, ":"); name == "version" || name == "appVersion" {
			line = fmt.Sprintf("%s: %s\n", name, version)
		}
		lines.WriteString(line)
	}
	return chart, os.WriteFile(about, []byte(lines.String()), 0o644)
}

// load brings all archives of a folder into the nodes.
func (b *Bed) load(ctx context.Context, folder string) error {
	archives, err := filepath.Glob(filepath.Join(folder, "*.tar"))
	if err != nil {
		return err
	}
	if b.own {
		return b.run(ctx, b.program(), append([]string{"load"}, archives...)...)
	}
	words := strings.Fields(b.Load)
	return b.run(ctx, words[0], append(words[1:], archives...)...)
}
