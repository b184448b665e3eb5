package main

// Where things lie: what is built in the cache, what a cluster keeps in a state folder there, and a
// registry that all users of the machine share.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// registryDir holds a lock for each cluster and a link to its state folder. Names and addresses
	// belong to the machine, so it cannot be in anybody's cache.
	registryDir  = "/run/trellis-cluster"
	namespaceDir = "/run/netns"
)

// Layout is the paths of one cluster.
type Layout struct {
	// Bin holds what is built; all clusters share it.
	Bin   string
	State string
	// Link is the short path to State that everything uses: a socket's path may have 107 bytes.
	Link string
}

func newLayout(name string, environment func(string) string) (Layout, error) {
	cache := environment("XDG_CACHE_HOME")
	if cache == "" {
		home := environment("HOME")
		if home == "" {
			return Layout{}, errors.New("neither XDG_CACHE_HOME nor HOME is set: one of them names the cache")
		}
		cache = filepath.Join(home, ".cache")
	}
	if !filepath.IsAbs(cache) {
		return Layout{}, fmt.Errorf("the cache %q is not an absolute path; correct XDG_CACHE_HOME or HOME", cache)
	}
	cache = filepath.Join(cache, "trellis")
	return Layout{
		Bin:   filepath.Join(cache, "bin"),
		State: filepath.Join(cache, "clusters", name),
		Link:  filepath.Join(registryDir, name),
	}, nil
}

func (l Layout) path(parts ...string) string {
	return filepath.Join(append([]string{l.Link}, parts...)...)
}

func (l Layout) Record() string         { return l.path("cluster.json") }
func (l Layout) Kubeconfig() string     { return l.path("admin.kubeconfig") }
func (l Layout) PKI(file string) string { return l.path("pki", file) }

// Log is where a server's log lies, by the path that stays valid when the cluster failed to come up.
func (l Layout) Log(server string) string { return filepath.Join(l.State, "log", server+".log") }

// AuditLog is what the API server writes down of keys and trust.
func (l Layout) AuditLog() string { return l.path("control", "audit.log") }

// Node is a folder of a node's own disk.
func (l Layout) Node(node Node, parts ...string) string {
	return filepath.Join(append([]string{l.path("nodes"), node.Name}, parts...)...)
}

// Containerd is the socket of a node's containerd as the machine sees it.
func (l Layout) Containerd(node Node) string {
	return l.Node(node, "run", "containerd", "containerd.sock")
}

// claim makes an empty state folder under this cluster's name, unless another user's has it.
func (l Layout) claim() error {
	if err := l.checkOwner(); err != nil {
		return err
	}
	for _, folder := range []string{filepath.Dir(l.Link), l.State} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
	}
	if err := os.Symlink(l.State, l.Link); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, folder := range []string{"log", "pki", "bin", "control"} {
		if err := os.Mkdir(l.path(folder), 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (l Layout) checkOwner() error {
	target, err := os.Readlink(l.Link)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case target != l.State:
		return fmt.Errorf("the name %q belongs to the cluster in %s; choose another with --name", filepath.Base(l.Link), target)
	}
	return nil
}

// release forgets the name.
func (l Layout) release() error {
	if err := os.Remove(l.Link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Record is what a cluster's state folder says about it.
type Record struct {
	Plan Plan `json:"plan"`
	// Ready: it was once seen to work. Without it an `up` was cut short.
	Ready   bool      `json:"ready"`
	Built   Built     `json:"built"`
	Servers []Process `json:"servers"`
}

func (l Layout) load() (Record, error) {
	var record Record
	err := readJSON(l.Record(), &record)
	return record, err
}

func (l Layout) save(record Record) error { return writeJSON(l.Record(), record) }

func readJSON(name string, into any) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func writeJSON(name string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(name, append(text, '\n'), 0o600)
}

// writeFile writes a file whole or not at all.
func writeFile(name string, data []byte, mode fs.FileMode) error {
	temporary := name + ".new"
	if err := os.WriteFile(temporary, data, mode); err != nil {
		return err
	}
	return os.Rename(temporary, name)
}
