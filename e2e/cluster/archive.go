package main

// OCI images as tar archives: writing one that holds a single static program, and reading which images
// an archive holds. The same program gives the same bytes, whenever and wherever it is packed.

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
)

// archiveSource is part of what names an archive in the cache: other code, other bytes.
//
//go:embed archive.go
var archiveSource []byte

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"

	// nameAnnotation holds an image's full name, for containerd.
	nameAnnotation = "io.containerd.image.name"
)

// Image is a program as an image: one file in an otherwise empty root.
type Image struct {
	Name    string
	Program string
	User    string
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType,omitempty"`
	Manifests     []descriptor `json:"manifests"`
}

// write packs the program's bytes.
func (i Image) write(to io.Writer, program []byte) error {
	var layer bytes.Buffer
	files := tar.NewWriter(&layer)
	if err := addFile(files, i.Program, 0o755, program); err != nil {
		return err
	}
	if err := files.Close(); err != nil {
		return err
	}

	blobs := blobs{}
	layerBlob := blobs.add(layerType, layer.Bytes())
	config, err := blobs.addJSON(configType, map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"User": i.User, "Entrypoint": []string{"/" + i.Program}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{layerBlob.Digest}},
	})
	if err != nil {
		return err
	}
	manifest, err := blobs.addJSON(manifestType, map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": []descriptor{layerBlob},
	})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{nameAnnotation: i.Name}
	list, err := json.Marshal(index{SchemaVersion: 2, MediaType: indexType, Manifests: []descriptor{manifest}})
	if err != nil {
		return err
	}

	archive := tar.NewWriter(to)
	if err := addFile(archive, "oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := addFile(archive, "index.json", 0o644, list); err != nil {
		return err
	}
	for _, blob := range []descriptor{manifest, config, layerBlob} {
		if err := addFile(archive, blobPath(blob), 0o644, blobs[blob.Digest]); err != nil {
			return err
		}
	}
	return archive.Close()
}

type blobs map[string][]byte

func (b blobs) add(mediaType string, data []byte) descriptor {
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	b[digest] = data
	return descriptor{MediaType: mediaType, Digest: digest, Size: int64(len(data))}
}

func (b blobs) addJSON(mediaType string, value any) (descriptor, error) {
	data, err := json.Marshal(value)
	return b.add(mediaType, data), err
}

func blobPath(d descriptor) string { return "blobs/sha256/" + d.Digest[len("sha256:"):] }

func addFile(archive *tar.Writer, name string, mode int64, data []byte) error {
	header := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: time.Unix(0, 0)}
	if err := archive.WriteHeader(&header); err != nil {
		return err
	}
	_, err := archive.Write(data)
	return err
}

// archived reads which images an archive holds: their digests by name.
func archived(name string) (map[string]string, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	images, err := readIndex(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return images, nil
}

func readIndex(from io.Reader) (map[string]string, error) {
	archive := tar.NewReader(from)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("no index.json in it; want an OCI image archive")
		}
		if err != nil {
			return nil, fmt.Errorf("not a tar archive: %w", err)
		}
		if header.Name != "index.json" && header.Name != "./index.json" {
			continue
		}
		var list index
		if err := json.NewDecoder(io.LimitReader(archive, 1<<20)).Decode(&list); err != nil {
			return nil, fmt.Errorf("index.json: %w", err)
		}
		return named(list)
	}
}

func named(list index) (map[string]string, error) {
	images := make(map[string]string, len(list.Manifests))
	for i, manifest := range list.Manifests {
		name := manifest.Annotations[nameAnnotation]
		if name == "" {
			return nil, fmt.Errorf("index.json: manifests[%d] has no annotation %s; set it to the image's full name, registry and tag included", i, nameAnnotation)
		}
		images[name] = manifest.Digest
	}
	if len(images) == 0 {
		return nil, errors.New("index.json: manifests is empty")
	}
	return images, nil
}
