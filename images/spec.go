package main

// What an image is made of, as its author writes it.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Spec describes one image. Layers are stacked in the order given; the shared libraries that a
// layer's programs need become a layer of their own below it, so that images share them.
type Spec struct {
	Name string `json:"name"`
	// Aliases are further names of the same image.
	Aliases    []string          `json:"aliases,omitempty"`
	Entrypoint []string          `json:"entrypoint"`
	Env        map[string]string `json:"env,omitempty"`
	User       string            `json:"user"`
	Labels     map[string]string `json:"labels,omitempty"`
	Layers     []LayerSpec       `json:"layers"`
}

// LayerSpec lists what one layer holds.
type LayerSpec struct {
	Directories []Directory `json:"directories,omitempty"`
	Texts       []Text      `json:"texts,omitempty"`
	Files       []File      `json:"files,omitempty"`
	Trees       []Copy      `json:"trees,omitempty"`
	Links       []Link      `json:"links,omitempty"`
	// Libraries by name, for what programs load while they run.
	Libraries []string `json:"libraries,omitempty"`
}

// Directory is an empty directory.
type Directory struct {
	Path string `json:"path"`
	Mode Mode   `json:"mode"`
}

// Text is a small file whose content stands in the specification.
type Text struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

// File is a file of the machine that builds.
type File struct {
	From string `json:"from"`
	To   string `json:"to"`
	Mode Mode   `json:"mode"`
}

// Copy is a folder of the machine that builds, without the paths that match a pattern of Exclude
// (path.Match on the path relative to From, or on its last element where the pattern has no slash).
type Copy struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	Exclude []string `json:"exclude,omitempty"`
}

// Link is a symbolic link.
type Link struct {
	Path   string `json:"path"`
	Target string `json:"target"`
}

// Mode is a permission as people write it: "0755".
type Mode uint32

// UnmarshalJSON reads an octal string.
func (m *Mode) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("mode %s: write it as an octal string such as \"0755\"", data)
	}
	value, err := strconv.ParseUint(text, 8, 32)
	if err != nil || value > 0o7777 {
		return fmt.Errorf("mode %q: write it as an octal string such as \"0755\"", text)
	}
	*m = Mode(value)
	return nil
}

// MarshalJSON writes an octal string.
func (m Mode) MarshalJSON() ([]byte, error) {
	return json.Marshal(fmt.Sprintf("%04o", uint32(m)))
}

var (
	namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9._-]*)+:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	userPattern = regexp.MustCompile(`^[0-9]+:[0-9]+$`)
)

// LoadSpecs reads {"images": [...]} from a file. Paths are relative to the file's folder.
func LoadSpecs(file string, set map[string]string) ([]Spec, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var document struct {
		Images []Spec `json:"images"`
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&document); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(document.Images) == 0 {
		return nil, fmt.Errorf("%s: images is empty: describe at least one", file)
	}
	for i := range document.Images {
		if err := document.Images[i].resolve(filepath.Dir(file), set); err != nil {
			return nil, fmt.Errorf("%s: image %q: %w", file, document.Images[i].Name, err)
		}
	}
	return document.Images, nil
}

// resolve makes every host path absolute to the folder and replaces variables.
func (s *Spec) resolve(folder string, set map[string]string) error {
	var missing error
	host := func(p string) string {
		p = os.Expand(p, func(name string) string {
			value, known := set[name]
			if !known {
				missing = fmt.Errorf("path %q uses ${%s}, which is not set: add --set %s=VALUE", p, name, name)
			}
			return value
		})
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(folder, p)
	}
	for i := range s.Layers {
		for j := range s.Layers[i].Files {
			s.Layers[i].Files[j].From = host(s.Layers[i].Files[j].From)
		}
		for j := range s.Layers[i].Trees {
			s.Layers[i].Trees[j].From = host(s.Layers[i].Trees[j].From)
		}
	}
	return missing
}

// check refuses what no runtime could start.
func (s *Spec) check() error {
	for _, name := range s.names() {
		if !namePattern.MatchString(name) {
			return fmt.Errorf("name %q: write registry/path:tag in lower case", name)
		}
	}
	switch {
	case !userPattern.MatchString(s.User):
		return fmt.Errorf("user %q: write UID:GID in digits, so that runAsNonRoot can be checked", s.User)
	case len(s.Entrypoint) == 0:
		return errors.New("entrypoint is empty: name the program that the image runs")
	case !path.IsAbs(s.Entrypoint[0]):
		return fmt.Errorf("entrypoint %q: write an absolute path, there is no shell to search for it", s.Entrypoint[0])
	case len(s.Layers) == 0:
		return errors.New("layers is empty: an image needs at least its program")
	}
	return nil
}

// names are all by which the image is known, the chief one first.
func (s *Spec) names() []string { return append([]string{s.Name}, s.Aliases...) }

// file is the name of the image's archive: the last part of its name.
func (s *Spec) file() string {
	name, _, _ := strings.Cut(path.Base(s.Name), ":")
	return name + ".tar"
}
