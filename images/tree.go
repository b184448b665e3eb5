package main

// A tree is the content of one layer: paths, each with what stands there.

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// Kind of an entry.
type Kind int

const (
	directory Kind = iota
	file
	link
)

// Entry is what stands at one path. Owner and time are always 0: they would only make a difference
// between two builds.
type Entry struct {
	Kind   Kind
	Mode   Mode
	Target string
	Data   []byte
	// Host is where the data came from.
	Host string
}

func (e Entry) same(other Entry) bool {
	return e.Kind == other.Kind && e.Mode == other.Mode && e.Target == other.Target && bytes.Equal(e.Data, other.Data)
}

// Tree maps clean relative paths ("usr/bin/nft") to entries. Below is what lower layers hold.
type Tree struct {
	entries map[string]Entry
	below   *Tree
}

// NewTree starts a layer on top of others.
func NewTree(below *Tree) *Tree { return &Tree{entries: map[string]Entry{}, below: below} }

// Lookup finds a path in this layer or below it.
func (t *Tree) Lookup(p string) (Entry, bool) {
	for ; t != nil; t = t.below {
		if entry, found := t.entries[p]; found {
			return entry, true
		}
	}
	return Entry{}, false
}

// Paths returns this layer's own paths, parents first.
func (t *Tree) Paths() []string {
	paths := make([]string, 0, len(t.entries))
	for p := range t.entries {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	return paths
}

// Add puts an entry at a path. What a lower layer already has exactly so is not repeated.
func (t *Tree) Add(p string, entry Entry) error {
	p, err := clean(p)
	if err != nil {
		return err
	}
	if old, found := t.Lookup(p); found {
		if old.same(entry) {
			return nil
		}
		return fmt.Errorf("/%s is given twice, with different content", p)
	}
	if err := t.parents(p); err != nil {
		return err
	}
	t.entries[p] = entry
	return nil
}

// parents are repeated in every layer that adds something to them, since engines disagree on what a
// layer without them means.
func (t *Tree) parents(p string) error {
	for i, c := range p {
		if c != '/' {
			continue
		}
		parent := p[:i]
		old, found := t.Lookup(parent)
		switch {
		case !found:
			t.entries[parent] = Entry{Kind: directory, Mode: 0o755}
		case old.Kind == directory:
			t.entries[parent] = old
		case old.Kind == link:
			return fmt.Errorf("/%s goes through the link /%s: write it below %s", p, parent, old.Target)
		case old.Kind == file:
			return fmt.Errorf("/%s lies below the file /%s", p, parent)
		}
	}
	return nil
}

// Files of a host folder, without what the patterns exclude.
func (t *Tree) addFolder(c Copy) error {
	return filepath.WalkDir(c.From, func(host string, item fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(c.From, host)
		if err != nil {
			return err
		}
		if relative != "." {
			excluded, err := matches(c.Exclude, filepath.ToSlash(relative))
			if err != nil {
				return err
			}
			if excluded && item.IsDir() {
				return filepath.SkipDir
			}
			if excluded {
				return nil
			}
		}
		to := path.Join(c.To, filepath.ToSlash(relative))
		switch {
		case item.IsDir():
			return t.Add(to, Entry{Kind: directory, Mode: 0o755})
		case item.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(host)
			if err != nil {
				return err
			}
			return t.Add(to, Entry{Kind: link, Mode: 0o777, Target: target})
		case item.Type().IsRegular():
			info, err := item.Info()
			if err != nil {
				return err
			}
			mode := Mode(0o644)
			if info.Mode()&0o111 != 0 {
				mode = 0o755
			}
			return t.addFile(host, to, mode)
		default:
			return fmt.Errorf("%s is neither a file, a folder nor a link: exclude it", host)
		}
	})
}

func (t *Tree) addFile(host, to string, mode Mode) error {
	data, err := os.ReadFile(host)
	if err != nil {
		return err
	}
	return t.Add(to, Entry{Kind: file, Mode: mode, Data: data, Host: host})
}

// addInPlace copies a host file to the path that it has on the host, with every link on the way: the
// dynamic loader finds a library by a link's name, in a folder that is often a link itself.
func (t *Tree) addInPlace(host string) error {
	rest := strings.Split(strings.TrimPrefix(filepath.Clean(host), "/"), "/")
	at := ""
	for hops := 0; len(rest) > 0; {
		next := path.Join(at, rest[0])
		info, err := os.Lstat("/" + next)
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at, rest = next, rest[1:]
			continue
		}
		if hops++; hops > 40 {
			return fmt.Errorf("%s: too many links", host)
		}
		target, err := os.Readlink("/" + next)
		if err != nil {
			return err
		}
		if err := t.Add(next, Entry{Kind: link, Mode: 0o777, Target: target}); err != nil {
			return err
		}
		if !path.IsAbs(target) {
			target = path.Join("/", at, target)
		}
		rest = append(strings.Split(strings.TrimPrefix(path.Clean(target), "/"), "/"), rest[1:]...)
		at = ""
	}
	return t.addFile("/"+at, "/"+at, 0o755)
}

func clean(p string) (string, error) {
	cleaned := strings.TrimPrefix(path.Clean("/"+p), "/")
	if cleaned == "" {
		return "", errors.New("path is empty: write an absolute path inside the image")
	}
	return cleaned, nil
}

func matches(patterns []string, relative string) (bool, error) {
	for _, pattern := range patterns {
		subject := relative
		if !strings.Contains(pattern, "/") {
			subject = path.Base(relative)
		}
		hit, err := path.Match(pattern, subject)
		if err != nil {
			return false, fmt.Errorf("exclude %q: %w", pattern, err)
		}
		if hit {
			return true, nil
		}
	}
	return false, nil
}
