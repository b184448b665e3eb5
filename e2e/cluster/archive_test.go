package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var testImage = Image{Name: "localhost/x:1", Program: "x", User: "1000:1000"}

func pack(t *testing.T, image Image, program string) []byte {
	t.Helper()
	var archive bytes.Buffer
	if err := image.write(&archive, []byte(program)); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func unpack(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	reader := tar.NewReader(bytes.NewReader(archive))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(reader); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSameProgramSameBytes(t *testing.T) {
	first := pack(t, testImage, "program")
	if !bytes.Equal(first, pack(t, testImage, "program")) {
		t.Error("two archives of the same program differ")
	}
	if bytes.Equal(first, pack(t, testImage, "another")) {
		t.Error("another program gave the same archive")
	}
}

// From the index every digest leads to the bytes that it is of, down to the program.
func TestDigestsLeadToTheProgram(t *testing.T) {
	files := unpack(t, pack(t, testImage, "program"))
	follow := func(d descriptor, into any) []byte {
		t.Helper()
		data, there := files[blobPath(d)]
		sum := sha256.Sum256(data)
		if !there || d.Digest != "sha256:"+hex.EncodeToString(sum[:]) || d.Size != int64(len(data)) {
			t.Fatalf("%s of %d bytes leads to %d bytes", d.Digest, d.Size, len(data))
		}
		if into != nil {
			if err := json.Unmarshal(data, into); err != nil {
				t.Fatal(err)
			}
		}
		return data
	}
	var list index
	if err := json.Unmarshal(files["index.json"], &list); err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		Config descriptor   `json:"config"`
		Layers []descriptor `json:"layers"`
	}
	follow(list.Manifests[0], &manifest)
	var config struct {
		Config struct {
			User       string
			Entrypoint []string
		} `json:"config"`
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	follow(manifest.Config, &config)
	if config.Config.User != "1000:1000" || len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/x" {
		t.Errorf("configuration %+v", config)
	}
	layer := follow(manifest.Layers[0], nil)
	if config.RootFS.DiffIDs[0] != manifest.Layers[0].Digest {
		t.Error("an uncompressed layer's diff_id is its digest")
	}
	if program := unpack(t, layer)["x"]; string(program) != "program" {
		t.Errorf("the layer's program is %q", program)
	}
}

func TestArchiveTellsItsImages(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(name, pack(t, testImage, "program"), 0o600); err != nil {
		t.Fatal(err)
	}
	images, err := archived(name)
	if err != nil || len(images) != 1 || !strings.HasPrefix(images["localhost/x:1"], "sha256:") {
		t.Errorf("%v, %v", images, err)
	}
	stored := parseImages("REF TYPE DIGEST SIZE PLATFORMS LABELS\nlocalhost/x:1 " + manifestType + " " +
		images["localhost/x:1"] + " 1.4 MiB linux/amd64 -\n")
	if !holds(stored, images) {
		t.Errorf("%v does not hold %v", stored, images)
	}
	stored["localhost/x:1"] = "sha256:other"
	if holds(stored, images) || holds(nil, images) {
		t.Error("an image with another digest, or none, was taken for this one")
	}
}

func TestBadArchives(t *testing.T) {
	with := func(name, text string) []byte {
		var buffer bytes.Buffer
		archive := tar.NewWriter(&buffer)
		if err := errors.Join(addFile(archive, name, 0o644, []byte(text)), archive.Close()); err != nil {
			t.Fatal(err)
		}
		return buffer.Bytes()
	}
	for what, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"not a tar":     {[]byte(strings.Repeat("x", 2000)), "not a tar archive"},
		"another tar":   {with("manifest.json", "[]"), "no index.json"},
		"broken index":  {with("index.json", "{"), "index.json"},
		"no image":      {with("index.json", `{"manifests": []}`), "manifests is empty"},
		"nameless":      {with("index.json", `{"manifests": [{"digest": "sha256:0"}]}`), "manifests[0] has no annotation io.containerd.image.name"},
		"empty archive": {nil, "no index.json"},
	} {
		if _, err := readIndex(bytes.NewReader(c.archive)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", what, err, c.want)
		}
	}
}
