package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// program copies a dynamically linked program of this machine to a place of the test's own.
func copied(t *testing.T, folder, name string) {
	t.Helper()
	source, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, name), data, 0o755); err != nil {
		t.Fatal(err)
	}
}

func binaries(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for _, name := range []string{"trellis-proxy", "trellis-ca", "trellis-discovery", "trellis-injector"} {
		copied(t, folder, name)
	}
	return folder
}

func TestSameInputGivesTheSameArchiveWhateverTheTimes(t *testing.T) {
	var archives [2][]byte
	var listings [2]string
	for i := range archives {
		bin, out := binaries(t), t.TempDir()
		then := time.Date(2001+i, 1, 1, 0, 0, 0, 0, time.UTC)
		for _, name := range []string{"trellis-proxy", "trellis-ca"} {
			if err := os.Chtimes(filepath.Join(bin, name), then, then); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(bin, name), os.FileMode(0o700+i*0o055)); err != nil {
				t.Fatal(err)
			}
		}
		nft := filepath.Join(bin, "nft")
		copied(t, bin, "nft")
		var listing bytes.Buffer
		if err := run([]string{"--bin", bin, "--out", out, "--version", "1.2.3", "--nft", nft}, &listing); err != nil {
			t.Fatal(err)
		}
		listings[i] = strings.ReplaceAll(listing.String(), out, "OUT")
		data, err := os.ReadFile(filepath.Join(out, "proxy.tar"))
		if err != nil {
			t.Fatal(err)
		}
		archives[i] = data
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two builds of the same binaries wrote different archives")
	}
	if listings[0] != listings[1] {
		t.Errorf("digests differ:\n%s\n%s", listings[0], listings[1])
	}
	for _, name := range []string{"proxy", "capture", "ca", "discovery", "injector"} {
		if !strings.Contains(listings[0], "trellis.dev/"+name+":1.2.3  sha256:") {
			t.Errorf("no line for %s in:\n%s", name, listings[0])
		}
	}
}

func TestAnotherInputGivesAnotherDigest(t *testing.T) {
	folder := t.TempDir()
	spec := static(folder, "one")
	first, err := Build(spec)
	if err != nil {
		t.Fatal(err)
	}
	spec.Layers[0].Texts[0].Content = "two"
	second, err := Build(spec)
	if err != nil {
		t.Fatal(err)
	}
	if first.Digest() == second.Digest() {
		t.Error("different content, same digest")
	}
}

// static is an image of a program, and a text.
func static(folder, text string) Spec {
	program := filepath.Join(folder, "program")
	data, _ := os.ReadFile("/proc/self/exe")
	_ = os.WriteFile(program, data, 0o755)
	return Spec{
		Name: "test.example/x:1", Entrypoint: []string{"/x"}, User: "1:1",
		Layers: []LayerSpec{{
			Files: []File{{From: program, To: "/x", Mode: 0o755}},
			Texts: []Text{{Path: "/etc/text", Content: text}},
		}},
	}
}

func TestProxyAndCaptureShareAllLayersButNft(t *testing.T) {
	bin := binaries(t)
	copied(t, bin, "nft")
	specs, err := Product(bin, "1", filepath.Join(bin, "nft"))
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := Build(specs[0])
	if err != nil {
		t.Fatal(err)
	}
	capture, err := Build(specs[1])
	if err != nil {
		t.Fatal(err)
	}
	if len(capture.layers) != len(proxy.layers)+1 {
		t.Fatalf("capture has %d layers, proxy %d: want one more", len(capture.layers), len(proxy.layers))
	}
	for i, layer := range proxy.layers {
		if capture.layers[i].Digest != layer.Digest {
			t.Errorf("layer %d is not shared", i)
		}
	}
}

// A PKCS#11 module finds the parts of glibc that the CA itself does not use.
func TestCAHasWhatAModuleIsLinkedTo(t *testing.T) {
	bin := binaries(t)
	copied(t, bin, "nft")
	specs, err := Product(bin, "1", filepath.Join(bin, "nft"))
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range specs {
		image, err := Build(spec)
		if err != nil {
			t.Fatal(err)
		}
		var all []byte
		for _, layer := range image.layers {
			all = append(all, image.blobs[layer.Digest]...)
		}
		if has, want := bytes.Contains(all, []byte("/libm.so.6")), strings.HasPrefix(spec.Name, "trellis.dev/ca:"); has != want {
			t.Errorf("%s: libm is there: %v, want %v", spec.Name, has, want)
		}
	}
}

// The proof that nothing is missing is to run the program with nothing else in sight.
func TestProgramRunsInItsImageAlone(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("chroot needs root")
	}
	bin := t.TempDir()
	copied(t, bin, "cat")
	spec := Spec{
		Name: "test.example/cat:1", Entrypoint: []string{"/usr/bin/cat"}, User: "0:0",
		Layers: []LayerSpec{base(), program(bin, "cat")},
	}
	image, err := Build(spec)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, layer := range image.layers {
		unpack(t, image.blobs[layer.Digest], root)
	}
	output, err := exec.Command("chroot", root, "/usr/bin/cat", "/etc/nsswitch.conf").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if !strings.Contains(string(output), "hosts: files dns") {
		t.Errorf("unexpected content: %s", output)
	}
}

// What the image brings along is used, and the machine's own is left where it is.
func TestLibraryOfTheImageIsNotTheMachines(t *testing.T) {
	bin := t.TempDir()
	copied(t, bin, "cat")
	data, err := os.ReadFile(filepath.Join(bin, "cat"))
	if err != nil {
		t.Fatal(err)
	}
	needs := &Libraries{}
	if err := needs.Need("cat", data); err != nil {
		t.Fatal(err)
	}
	libc := needs.found["libc.so.6"]
	if libc == "" {
		t.Skip("cat of this machine needs no libc")
	}
	own := filepath.Join(bin, "libc")
	text, err := os.ReadFile(libc)
	if err != nil {
		t.Fatal(err)
	}
	// Another one all the same: with something after its end.
	if err := os.WriteFile(own, append(text, "our own libc"...), 0o755); err != nil {
		t.Fatal(err)
	}
	brought := program(bin, "cat")
	brought.Files = append(brought.Files, File{From: own, To: filepath.Join("/usr/lib", filepath.Base(filepath.Dir(libc)), "libc.so.6"), Mode: 0o755})
	image, err := Build(Spec{Name: "test.example/cat:1", Entrypoint: []string{"/usr/bin/cat"}, User: "0:0", Layers: []LayerSpec{brought}})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, layer := range image.layers {
		unpack(t, image.blobs[layer.Digest], root)
	}
	found, err := filepath.Glob(filepath.Join(root, "usr/lib/*/libc.so.6"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%q, %v", found, err)
	}
	if text, err := os.ReadFile(found[0]); err != nil || !bytes.HasSuffix(text, []byte("our own libc")) {
		t.Errorf("%s is the machine's: %v", found[0], err)
	}
}

// A path that is relative to the program leads nowhere the image does not know; any other is refused.
func TestLibraryPathsOfPrograms(t *testing.T) {
	for paths, want := range map[string]bool{
		"$ORIGIN/../lib": false, "$ORIGIN/../lib:$ORIGIN": false, "/opt/lib": true, "$ORIGIN:/opt/lib": true,
	} {
		if got := leadsElsewhere(paths); got != want {
			t.Errorf("%s leads elsewhere: %v, want %v", paths, got, want)
		}
	}
}

func unpack(t *testing.T, layer []byte, root string) {
	t.Helper()
	for archive := tar.NewReader(bytes.NewReader(layer)); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || !header.ModTime.Equal(epoch) {
			t.Errorf("%s: owner %d:%d, time %v: want 0:0 and the epoch", header.Name, header.Uid, header.Gid, header.ModTime)
		}
		to := filepath.Join(root, header.Name)
		switch header.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(to, os.FileMode(header.Mode))
		case tar.TypeSymlink:
			err = os.Symlink(header.Linkname, to)
		case tar.TypeReg:
			data, _ := io.ReadAll(archive)
			err = os.WriteFile(to, data, os.FileMode(header.Mode))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestArchiveNamesItsImageForEveryEngine(t *testing.T) {
	spec := static(t.TempDir(), "text")
	spec.Aliases = []string{"other.example/y:2"}
	image, err := Build(spec)
	if err != nil {
		t.Fatal(err)
	}
	var written bytes.Buffer
	if err := image.Write(&written); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for archive := tar.NewReader(&written); ; {
		header, err := archive.Next()
		if err != nil {
			break
		}
		files[header.Name], _ = io.ReadAll(archive)
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	names := []string{"test.example/x:1", "other.example/y:2"}
	if len(index.Manifests) != len(names) {
		t.Fatalf("the index holds %+v", index.Manifests)
	}
	for i, name := range names {
		for _, key := range []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"} {
			if got := index.Manifests[i].Annotations[key]; got != name {
				t.Errorf("%s is %q, want %q", key, got, name)
			}
		}
		if index.Manifests[i].Digest != image.Digest() {
			t.Errorf("%s is another image", name)
		}
	}
	var legacy []struct{ RepoTags []string }
	if err := json.Unmarshal(files["manifest.json"], &legacy); err != nil || !slices.Equal(legacy[0].RepoTags, names) {
		t.Errorf("%v, %v", legacy, err)
	}
	manifest := index.Manifests[0]
	if int64(len(files[blobPath(manifest.Digest)])) != manifest.Size {
		t.Error("the index points at no manifest of that size")
	}
	var config configuration
	if err := json.Unmarshal(files[blobPath(image.config.Digest)], &config); err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "1:1" || config.RootFS.DiffIDs[0] != image.layers[0].Digest {
		t.Errorf("configuration %+v", config)
	}
}

func TestBadSpecificationsSayWhatToDo(t *testing.T) {
	folder := t.TempDir()
	for name, c := range map[string]struct {
		change func(*Spec)
		want   string
	}{
		"name":       {func(s *Spec) { s.Name = "Upper" }, `name "Upper"`},
		"alias":      {func(s *Spec) { s.Aliases = []string{"Upper"} }, `name "Upper"`},
		"user":       {func(s *Spec) { s.User = "nobody" }, "UID:GID"},
		"entrypoint": {func(s *Spec) { s.Entrypoint = []string{"/y"} }, "entrypoint /y is not in the image"},
		"relative":   {func(s *Spec) { s.Entrypoint = []string{"y"} }, "absolute"},
		"twice": {func(s *Spec) {
			s.Layers = append(s.Layers, LayerSpec{Texts: []Text{{Path: "/x", Content: "other"}}})
		}, "/x is given twice"},
		"through a link": {func(s *Spec) {
			s.Layers[0].Links = []Link{{Path: "/lib", Target: "usr/lib"}}
			s.Layers = append(s.Layers, LayerSpec{Texts: []Text{{Path: "/lib/y"}}})
		}, "goes through the link /lib"},
		"missing file": {func(s *Spec) { s.Layers[0].Files[0].From = folder + "/none" }, "none"},
	} {
		spec := static(folder, "text")
		c.change(&spec)
		if _, err := Build(spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}

func TestSpecificationFile(t *testing.T) {
	folder := t.TempDir()
	write := func(text string) string {
		file := filepath.Join(folder, "spec.json")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	specs, err := LoadSpecs(write(`{"images": [{"name": "a.b/c:1", "entrypoint": ["/c"], "user": "1:1",
		"layers": [{"files": [{"from": "${BIN}/c", "to": "/c", "mode": "0755"}], "trees": [{"from": "t", "to": "/t"}]}]}]}`),
		map[string]string{"BIN": "/bin"})
	if err != nil {
		t.Fatal(err)
	}
	if from := specs[0].Layers[0].Files[0].From; from != "/bin/c" {
		t.Errorf("from %q", from)
	}
	if from := specs[0].Layers[0].Trees[0].From; from != filepath.Join(folder, "t") {
		t.Errorf("from %q", from)
	}
	for text, want := range map[string]string{
		`{"images": []}`:                  "images is empty",
		`{"images": [{"nmae": "a.b/c"}]}`: `unknown field "nmae"`,
		`{"images": [{"name": "a.b/c:1", "layers": [{"files": [{"from": "${X}/c", "mode": "0755"}]}]}]}`: "--set X=VALUE",
		`{"images": [{"name": "a.b/c:1", "layers": [{"files": [{"from": "c", "mode": "rwx"}]}]}]}`:       "octal string",
	} {
		if _, err := LoadSpecs(write(text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", text, err, want)
		}
	}
}

func TestMissingBinaryAndUnknownArgumentAreNamed(t *testing.T) {
	if err := run([]string{"--bin", t.TempDir(), "--version", "1", "--out", t.TempDir(), "--nft", "/proc/self/exe"}, io.Discard); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("missing binary: %v", err)
	}
	if err := run([]string{"everything"}, io.Discard); err == nil || !strings.Contains(err.Error(), `"everything"`) {
		t.Errorf("unknown argument: %v", err)
	}
}

func TestVersionIsTheWorkspaces(t *testing.T) {
	folder := t.TempDir()
	inner := filepath.Join(folder, "a", "b")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	manifest := "[workspace]\nmembers = []\n[workspace.package]\nversion = \"4.5.6\"\n[workspace.dependencies]\nversion = \"9\"\n"
	if err := os.WriteFile(filepath.Join(folder, "Cargo.toml"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	if version, err := WorkspaceVersion(inner); err != nil || version != "4.5.6" {
		t.Errorf("%q, %v", version, err)
	}
}
