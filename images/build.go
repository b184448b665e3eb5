package main

// From a specification to the layers and the manifest of an image.

import (
	"fmt"
	"path"
	"strings"
)

// Build reads everything that the specification names.
func Build(spec Spec) (*Image, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	var trees []*Tree
	var top *Tree
	// The loader's machine and name stay known from layer to layer, what it found does not.
	libraries := &Libraries{}
	for i, layer := range spec.Layers {
		// The libraries go below the programs that need them, so the programs' tree is read first,
		// and then laid on top.
		programs, err := layer.tree(top)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		libraries.inside = programs.Lookup
		for _, p := range programs.Paths() {
			if entry := programs.entries[p]; entry.Kind == file {
				if err := libraries.Need(entry.Host, entry.Data); err != nil {
					return nil, fmt.Errorf("layer %d: %w", i, err)
				}
			}
		}
		for _, library := range layer.Libraries {
			if err := libraries.add("what "+spec.Name+" loads", library); err != nil {
				return nil, fmt.Errorf("layer %d: %w", i, err)
			}
		}
		below := NewTree(top)
		for _, host := range libraries.Paths() {
			if err := below.addInPlace(host); err != nil {
				return nil, fmt.Errorf("layer %d: library %s: %w", i, host, err)
			}
		}
		if len(below.entries) > 0 {
			trees = append(trees, below)
			top = below
			if programs, err = layer.tree(top); err != nil {
				return nil, fmt.Errorf("layer %d: %w", i, err)
			}
		}
		trees = append(trees, programs)
		top = programs
	}
	program := strings.TrimPrefix(path.Clean(spec.Entrypoint[0]), "/")
	if entry, found := top.Lookup(program); !found || entry.Kind == directory {
		return nil, fmt.Errorf("entrypoint %s is not in the image: add it to files", spec.Entrypoint[0])
	}
	architecture, err := libraries.Architecture()
	if err != nil {
		return nil, err
	}
	return NewImage(spec, architecture, trees)
}

func (l LayerSpec) tree(below *Tree) (*Tree, error) {
	tree := NewTree(below)
	for _, d := range l.Directories {
		if err := tree.Add(d.Path, Entry{Kind: directory, Mode: d.Mode}); err != nil {
			return nil, err
		}
	}
	for _, t := range l.Texts {
		if err := tree.Add(t.Path, Entry{Kind: file, Mode: 0o644, Data: []byte(t.Content), Host: t.Path}); err != nil {
			return nil, err
		}
	}
	for _, f := range l.Files {
		if err := tree.addFile(f.From, f.To, f.Mode); err != nil {
			return nil, err
		}
	}
	for _, c := range l.Trees {
		if err := tree.addFolder(c); err != nil {
			return nil, err
		}
	}
	for _, k := range l.Links {
		if err := tree.Add(k.Path, Entry{Kind: link, Mode: 0o777, Target: k.Target}); err != nil {
			return nil, err
		}
	}
	return tree, nil
}
