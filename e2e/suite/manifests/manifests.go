// Package manifests holds what the suite applies to the cluster.
package manifests

import (
	"embed"
	"fmt"
	"regexp"
	"strings"
)

//go:embed *.yaml
var files embed.FS

var variable = regexp.MustCompile(`\$\{[A-Z_]+\}`)

// Read returns a manifest with each ${NAME} replaced; a name that nobody gave is an error.
func Read(name string, values map[string]string) (string, error) {
	text, err := files.ReadFile(name)
	if err != nil {
		return "", err
	}
	var missing error
	filled := variable.ReplaceAllStringFunc(string(text), func(found string) string {
		value, known := values[strings.Trim(found, "${}")]
		if !known {
			missing = fmt.Errorf("%s: %s has no value", name, found)
		}
		return value
	})
	return filled, missing
}

// Indent shifts a text to the right, to stand as a block in YAML.
func Indent(text string, by int) string {
	margin := strings.Repeat(" ", by)
	return margin + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+margin)
}
