package main

// The commands' own logic: options, locks, paths, builds and questions.

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCommandLineMistakes(t *testing.T) {
	t.Setenv(nameVariable, "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for line, want := range map[string]string{
		"":                    "no command",
		"upp":                 `unknown command "upp"`,
		"up --nodes 4":        "want 1 to 3",
		"up --node 2":         "-node",
		"up now":              "up takes no argument",
		"down --nodes 2":      "-nodes",
		"--name Foo up":       `--name "Foo"`,
		"up --name a_b":       `--name "a_b"`,
		"--name none load":    "load wants at least one IMAGE.tar",
		"--name none load a":  "cluster none is not up; start it: cluster --name none up",
		"--name none kubectl": "cluster none is not up",
		"--name none status":  "cluster none is not up",
		"--name none restart": "cluster none is not up",
		"restart etcd":        "restart takes no argument",
		"--name none pid":     "pid wants SERVER",
		"--name none pid a":   "cluster none is not up",
	} {
		err := run(context.Background(), strings.Fields(line))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("cluster %s: error %v, want %q", line, err, want)
		}
	}
}

func TestClientsFindTheCluster(t *testing.T) {
	t.Setenv("NO_PROXY", "example.org")
	t.Setenv("no_proxy", "")
	t.Setenv("PATH", "/bin")
	layout := Layout{Link: "/run/trellis-cluster/x"}
	got := clientEnvironment(layout, []string{"KUBECONFIG=/mine", "HTTPS_PROXY=http://proxy", "NO_PROXY=example.org", "PATH=/bin"})
	want := []string{
		"HTTPS_PROXY=http://proxy",
		"KUBECONFIG=/run/trellis-cluster/x/admin.kubeconfig",
		"NO_PROXY=example.org,198.18.0.0/15",
		"PATH=/run/trellis-cluster/x/bin:/bin",
		"no_proxy=198.18.0.0/15",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestWhereThingsLie(t *testing.T) {
	environment := func(pairs map[string]string) func(string) string {
		return func(name string) string { return pairs[name] }
	}
	for want, pairs := range map[string]map[string]string{
		"/c/trellis/clusters/x":        {"XDG_CACHE_HOME": "/c", "HOME": "/h"},
		"/h/.cache/trellis/clusters/x": {"HOME": "/h"},
	} {
		if layout, err := newLayout("x", environment(pairs)); err != nil || layout.State != want {
			t.Errorf("%v: %q, %v", pairs, layout.State, err)
		}
	}
	for want, pairs := range map[string]map[string]string{
		"neither XDG_CACHE_HOME nor HOME": {},
		"not an absolute path":            {"XDG_CACHE_HOME": "c"},
	} {
		if _, err := newLayout("x", environment(pairs)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v", pairs, err)
		}
	}
}

// The longest name still gives a socket path that the kernel takes.
func TestSocketPathsAreShort(t *testing.T) {
	layout, err := newLayout("abcdefghijk", func(string) string { return "/" + strings.Repeat("long/", 50) })
	if err != nil {
		t.Fatal(err)
	}
	if path := layout.Containerd(Plan{}.node(3)); len(path) > 107 {
		t.Errorf("%s has %d bytes", path, len(path))
	}
}

func TestNameOfAnotherIsRefused(t *testing.T) {
	layout := testLayout(t)
	if err := layout.checkOwner(); err != nil {
		t.Errorf("its own: %v", err)
	}
	other := layout
	other.State += "-of-another"
	if err := other.claim(); err == nil || !strings.Contains(err.Error(), layout.State) {
		t.Errorf("another's: %v", err)
	}
	if _, err := os.Stat(other.State); err == nil {
		t.Error("a state folder was made under a name that is taken")
	}
	if err := layout.release(); err != nil {
		t.Fatal(err)
	}
	if err := other.claim(); err != nil {
		t.Errorf("after its release: %v", err)
	}
}

func TestStateIsRemovedWithOrWithoutLogs(t *testing.T) {
	layout := testLayout(t)
	log := layout.Log("x")
	file(t, "line\n", log)
	file(t, "key", layout.PKI("ca.key"))
	if err := removeState(layout, true); err != nil {
		t.Fatal(err)
	}
	if read(t, log) != "line\n" {
		t.Error("the log changed")
	}
	if _, err := os.Stat(filepath.Join(layout.State, "pki")); err == nil {
		t.Error("keys stayed")
	}
	for range 2 {
		if err := removeState(layout, false); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(layout.State); err == nil {
			t.Error("the state folder stayed")
		}
	}
}

func TestCommandsTakeTurns(t *testing.T) {
	name := filepath.Join(t.TempDir(), "run", "x.lock")
	first, err := acquire(context.Background(), name, func() { t.Error("the first had to wait") })
	if err != nil {
		t.Fatal(err)
	}
	waiting, second := make(chan struct{}), make(chan *Lock)
	go func() {
		lock, err := acquire(context.Background(), name, func() { close(waiting) })
		if err != nil {
			t.Error(err)
		}
		second <- lock
	}()
	<-waiting
	select {
	case <-second:
		t.Error("two hold the lock")
	default:
	}
	// The holder may remove the file: whoever waits must not hold a lock on nothing.
	if err := first.remove(); err != nil {
		t.Fatal(err)
	}
	lock := <-second
	if lock == nil || !sameFile(lock.file, name) {
		t.Error("the second holds a lock that others cannot see")
	}
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := acquire(ctx, name, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting was interrupted: %v", err)
	}
}

func TestBuildNamesFollowTheirSources(t *testing.T) {
	source := t.TempDir()
	main := file(t, "package main\n", source, "x", "main.go")
	file(t, "module x\n", source, "x", "go.mod")
	b := builder{source: source}
	key := func(a artifact) string {
		t.Helper()
		key, err := b.key(a)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	x := artifact{name: "x", folder: "x", target: "."}
	first := key(x)
	if key(x) != first {
		t.Error("the same sources gave another name")
	}
	file(t, "package main\n", source, "x", "main_test.go")
	file(t, "notes", source, "x", "README.md")
	if key(x) != first {
		t.Error("a test or a text changed the name")
	}
	other := x
	other.defines = map[string]string{"main.version": "2"}
	image := x
	image.image = &testImage
	for what, a := range map[string]artifact{"flags": other, "an image": image} {
		if key(a) == first {
			t.Errorf("%s did not change the name", what)
		}
	}
	if err := os.WriteFile(main, []byte("package main // changed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if key(x) == first {
		t.Error("a changed source did not change the name")
	}
}

func TestMountsBelowAFolder(t *testing.T) {
	mounts := `22 1 254:0 / / rw - ext4 /dev/vda rw
23 22 0:5 / /a/state rw - tmpfs tmpfs rw
24 22 0:5 / /a/state-of-another rw - tmpfs tmpfs rw
25 23 0:5 / /a/state/with\040space rw - tmpfs tmpfs rw
`
	points, err := parseMounts(strings.NewReader(mounts), "/a/state")
	if err != nil || !slices.Equal(points, []string{"/a/state", "/a/state/with space"}) {
		t.Errorf("%q, %v", points, err)
	}
}

func TestQuestionToTheNameService(t *testing.T) {
	got := question(0x1234, "a.bc")
	want := "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x01\x00\x01"
	if string(got) != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestAnswersOfTheNameService(t *testing.T) {
	address := netip.MustParseAddr("10.96.0.1")
	record := "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x60\x00\x01"
	header := func(flags, answers string) string {
		return "\x12\x34\x81" + flags + "\x00\x01\x00" + answers + "\x00\x00\x00\x00"
	}
	if err := checkReply([]byte(header("\x80", "\x01")+record), 0x1234, address); err != nil {
		t.Errorf("a good answer: %v", err)
	}
	for what, c := range map[string]struct{ reply, want string }{
		"another question's": {"\x99\x99" + header("\x80", "\x01")[2:] + record, "not an answer"},
		"cut off":            {"\x12\x34\x81", "not an answer"},
		"no such name":       {header("\x83", "\x00"), "refused with code 3"},
		"server failure":     {header("\x82", "\x00"), "refused with code 2"},
		"empty":              {header("\x80", "\x00"), "no address"},
		"another address":    {header("\x80", "\x01") + strings.Replace(record, "\x60", "\x61", 1), "lacks 10.96.0.1"},
	} {
		if err := checkReply([]byte(c.reply), 0x1234, address); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", what, err, c.want)
		}
	}
}

func TestOneFailureStopsTheOthers(t *testing.T) {
	problem := errors.New("problem")
	err := together(context.Background(),
		func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		func(context.Context) error { return problem },
	)
	if !errors.Is(err, problem) {
		t.Errorf("error %v, want the first one", err)
	}
	if err := together(context.Background(), func(context.Context) error { return nil }); err != nil {
		t.Errorf("all went well: %v", err)
	}
}

// Whatever is wrong with a node, the log that is shown is that node's.
func TestBlameOutlivesWrapping(t *testing.T) {
	err := errors.Join(errors.New("first"), blame("kubelet-n2", errors.New("not ready")))
	var blamed blamedError
	if !errors.As(err, &blamed) || blamed.server != "kubelet-n2" || !strings.Contains(err.Error(), "not ready") {
		t.Errorf("%v blames %q", err, blamed.server)
	}
}
