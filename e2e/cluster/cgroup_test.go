package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	mountOne = `30 25 0:26 / /sys/fs/cgroup/cpuset rw,relatime shared:9 - cgroup cgroup rw,cpuset
31 25 0:27 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
`
	mountTwo = `32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`
	mountOther = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:5 / /odd rw - tmpfs cgroup rw,freezer
`
)

func TestHierarchies(t *testing.T) {
	for what, c := range map[string]struct {
		mounts   string
		unified  bool
		tracking string
		roots    []string
	}{
		"version 1": {mountOther + mountOne, false, "/sys/fs/cgroup/freezer", []string{"/sys/fs/cgroup/cpuset", "/sys/fs/cgroup/freezer"}},
		"version 2": {mountTwo + mountOther, true, "/sys/fs/cgroup/unified", []string{"/sys/fs/cgroup/unified"}},
		"both": {mountTwo + mountOne, false, "/sys/fs/cgroup/freezer",
			[]string{"/sys/fs/cgroup/cpuset", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup/unified"}},
	} {
		got, err := parseCgroups(strings.NewReader(c.mounts))
		if err != nil || got.unified != c.unified || got.tracking != c.tracking || !slices.Equal(got.roots, c.roots) {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
	for _, mounts := range []string{mountOther, "30 25 0:26 / /c rw - cgroup cgroup rw,cpu\n"} {
		if _, err := parseCgroups(strings.NewReader(mounts)); err == nil || !strings.Contains(err.Error(), "mount -t cgroup") {
			t.Errorf("%q: error %v, want one with a remedy", mounts, err)
		}
	}
}

// file plays a cgroup file, which exists from the start.
func file(t *testing.T, text string, parts ...string) string {
	t.Helper()
	name := filepath.Join(parts...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestCpusetIsInheritedOnce(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		file(t, "0-1\n", root, name)
	}
	cpus := file(t, "\n", root, "child", "cpuset.cpus")
	mems := file(t, "1\n", root, "child", "cpuset.mems")
	if err := inheritCpuset(root, filepath.Join(root, "child")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, cpus); got != "0-1\n" {
		t.Errorf("empty cpus became %q", got)
	}
	if got := read(t, mems); got != "1\n" {
		t.Errorf("mems that were set became %q", got)
	}
	if err := inheritCpuset(t.TempDir(), root); err != nil {
		t.Errorf("a hierarchy without cpusets: %v", err)
	}
}

func TestControllersAreDelegated(t *testing.T) {
	root := t.TempDir()
	file(t, "cpuset cpu memory pids\n", root, "cgroup.controllers")
	control := file(t, "", root, "cgroup.subtree_control")
	if err := delegateControllers(root); err != nil {
		t.Fatal(err)
	}
	if got := read(t, control); got != "+cpuset +cpu +memory +pids" {
		t.Errorf("delegated %q", got)
	}
}

func TestProcessesOfAllDepths(t *testing.T) {
	root := t.TempDir()
	file(t, "1\n", root, "cgroup.procs")
	file(t, "", root, "trellis/x/cgroup.procs")
	file(t, "12\n13\n", root, "trellis/x/servers/cgroup.procs")
	file(t, "14\n", root, "trellis/x/n1/kubepods/pod/cgroup.procs")
	file(t, "99\n", root, "trellis/y/cgroup.procs")
	cgroups := Cgroups{roots: []string{root}, tracking: root}
	pids, err := cgroups.processes("/trellis/x")
	slices.Sort(pids)
	if err != nil || !slices.Equal(pids, []int{12, 13, 14}) {
		t.Errorf("%v, %v", pids, err)
	}
	if pids, err := cgroups.processes("/trellis/none"); err != nil || len(pids) != 0 {
		t.Errorf("a cgroup that is not there: %v, %v", pids, err)
	}
}
