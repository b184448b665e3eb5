package main

// An OCI image layout in a tar archive: blobs under their digests, an index that names the image, and
// the older manifest.json beside it for engines that only read that.

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"sort"
	"time"
)

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// epoch stands for every time in an image.
var epoch = time.Unix(0, 0).UTC()

// Image is a finished image, in memory.
type Image struct {
	names    []string
	manifest descriptor
	config   descriptor
	layers   []descriptor
	blobs    map[string][]byte
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type configuration struct {
	Created      time.Time `json:"created"`
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Config       struct {
		User       string            `json:"User"`
		Env        []string          `json:"Env,omitempty"`
		Entrypoint []string          `json:"Entrypoint"`
		WorkingDir string            `json:"WorkingDir"`
		Labels     map[string]string `json:"Labels,omitempty"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// NewImage writes each tree as a layer. Layers are not compressed: a node imports them faster, and a
// compressor's version cannot change the digest.
func NewImage(spec Spec, architecture string, trees []*Tree) (*Image, error) {
	image := &Image{names: spec.names(), blobs: map[string][]byte{}}
	config := configuration{Created: epoch, Architecture: architecture, OS: "linux"}
	config.Config.User = spec.User
	config.Config.Entrypoint = spec.Entrypoint
	config.Config.WorkingDir = "/"
	config.Config.Labels = spec.Labels
	for name, value := range spec.Env {
		config.Config.Env = append(config.Config.Env, name+"="+value)
	}
	sort.Strings(config.Config.Env)
	config.RootFS.Type = "layers"
	for _, tree := range trees {
		data, err := layer(tree)
		if err != nil {
			return nil, err
		}
		blob := image.store(typeLayer, data)
		image.layers = append(image.layers, blob)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, blob.Digest)
	}
	var err error
	if image.config, err = image.storeJSON(typeConfig, config); err != nil {
		return nil, err
	}
	image.manifest, err = image.storeJSON(typeManifest, map[string]any{
		"schemaVersion": 2,
		"mediaType":     typeManifest,
		"config":        image.config,
		"layers":        image.layers,
	})
	if err != nil {
		return nil, err
	}
	image.manifest.Platform = &platform{Architecture: architecture, OS: "linux"}
	return image, nil
}

// Digest of the manifest, by which the image is pinned.
func (i *Image) Digest() string { return i.manifest.Digest }

// Size of configuration and layers, in bytes.
func (i *Image) Size() int64 {
	total := i.config.Size
	for _, blob := range i.layers {
		total += blob.Size
	}
	return total
}

// WriteFile writes the archive whole or not at all.
func (i *Image) WriteFile(name string) error {
	temporary, err := os.CreateTemp(filepath.Dir(name), ".image-*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	err = i.Write(temporary)
	if closed := temporary.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Chmod(temporary.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(temporary.Name(), name)
	}
	return err
}

// Write writes the archive.
func (i *Image) Write(to io.Writer) error {
	var manifests []descriptor
	for _, name := range i.names {
		named := i.manifest
		named.Annotations = map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
		manifests = append(manifests, named)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": manifests})
	if err != nil {
		return err
	}
	legacy, err := json.Marshal([]map[string]any{{
		"Config": blobPath(i.config.Digest), "RepoTags": i.names, "Layers": blobPaths(i.layers),
	}})
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"oci-layout":    []byte(`{"imageLayoutVersion":"1.0.0"}`),
		"index.json":    index,
		"manifest.json": legacy,
	}
	for digest, data := range i.blobs {
		files[blobPath(digest)] = data
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	archive := tar.NewWriter(to)
	for _, folder := range []string{"blobs/", "blobs/sha256/"} {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder, Mode: 0o755, ModTime: epoch}); err != nil {
			return err
		}
	}
	for _, name := range names {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: epoch}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(files[name]); err != nil {
			return err
		}
	}
	return archive.Close()
}

func (i *Image) store(mediaType string, data []byte) descriptor {
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	i.blobs[digest] = data
	return descriptor{MediaType: mediaType, Digest: digest, Size: int64(len(data))}
}

func (i *Image) storeJSON(mediaType string, value any) (descriptor, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return descriptor{}, err
	}
	return i.store(mediaType, data), nil
}

func layer(tree *Tree) ([]byte, error) {
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	for _, p := range tree.Paths() {
		entry := tree.entries[p]
		header := &tar.Header{Name: p, Mode: int64(entry.Mode), ModTime: epoch, Format: tar.FormatPAX}
		switch entry.Kind {
		case directory:
			header.Typeflag, header.Name = tar.TypeDir, p+"/"
		case link:
			header.Typeflag, header.Linkname = tar.TypeSymlink, entry.Target
		case file:
			header.Typeflag, header.Size = tar.TypeReg, int64(len(entry.Data))
		}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(entry.Data); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}

func blobPath(digest string) string { return "blobs/sha256/" + digest[len("sha256:"):] }

func blobPaths(blobs []descriptor) []string {
	paths := make([]string, 0, len(blobs))
	for _, blob := range blobs {
		paths = append(paths, blobPath(blob.Digest))
	}
	return paths
}
