package main

// The cgroups that hold a cluster's processes: kubelet's containers in every hierarchy, and the servers
// in one by which all of them are found again. Both versions of the interface are known.

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const mountInfo = "/proc/self/mountinfo"

// Cgroups are the hierarchies of this machine.
type Cgroups struct {
	unified bool
	// roots are where they are mounted; tracking is the one to find processes by.
	roots    []string
	tracking string
}

func detectCgroups() (Cgroups, error) {
	file, err := os.Open(mountInfo)
	if err != nil {
		return Cgroups{}, err
	}
	defer file.Close()
	return parseCgroups(file)
}

// parseCgroups prefers version 1 where its hierarchies exist, as kubelet does. A version 2 mount beside
// them has no controllers then, but runc puts containers there as well.
func parseCgroups(mounts io.Reader) (Cgroups, error) {
	var c Cgroups
	var two string
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		before, after, found := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 5 || len(right) < 3 {
			continue
		}
		switch point := left[4]; right[0] {
		case "cgroup":
			c.roots = append(c.roots, point)
			// Nothing is counted or limited there, and runc puts each container in it.
			if slices.Contains(strings.Split(right[2], ","), "freezer") {
				c.tracking = point
			}
		case "cgroup2":
			two = point
		}
	}
	if err := lines.Err(); err != nil {
		return Cgroups{}, err
	}
	switch {
	case len(c.roots) > 0 && c.tracking != "":
		if two != "" {
			c.roots = append(c.roots, two)
		}
		return c, nil
	case len(c.roots) > 0:
		return Cgroups{}, errors.New("cgroup version 1 without a freezer hierarchy; mount it: mount -t cgroup -o freezer freezer /sys/fs/cgroup/freezer")
	case two != "":
		return Cgroups{unified: true, roots: []string{two}, tracking: two}, nil
	}
	return Cgroups{}, errors.New("no cgroup hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")
}

// create makes a cgroup that kubelet accepts as its root, in every hierarchy.
func (c Cgroups) create(cgroup string) error {
	for _, root := range c.roots {
		at := root
		for _, part := range strings.Split(strings.Trim(cgroup, "/"), "/") {
			parent := at
			at = filepath.Join(at, part)
			var err error
			if c.unified {
				err = delegateControllers(parent)
			}
			if err == nil {
				err = mkdir(at)
			}
			if err == nil && !c.unified {
				err = inheritCpuset(parent, at)
			}
			if err != nil {
				return fmt.Errorf("cgroup %s: %w", cgroup, err)
			}
		}
	}
	return nil
}

// createTracked makes a cgroup only to find processes by, and returns its folder.
func (c Cgroups) createTracked(cgroup string) (string, error) {
	folder := c.folder(cgroup)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("cgroup %s: %w", cgroup, err)
	}
	return folder, nil
}

func (c Cgroups) folder(cgroup string) string { return filepath.Join(c.tracking, cgroup) }

func mkdir(folder string) error {
	if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// delegateControllers lets children of a version 2 cgroup use all that it has itself.
func delegateControllers(folder string) error {
	have, err := os.ReadFile(filepath.Join(folder, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var all []string
	for _, controller := range strings.Fields(string(have)) {
		all = append(all, "+"+controller)
	}
	return os.WriteFile(filepath.Join(folder, "cgroup.subtree_control"), []byte(strings.Join(all, " ")), 0)
}

// inheritCpuset fills what version 1 leaves empty: no process may join a cpuset without processors.
func inheritCpuset(parent, child string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if own, err := os.ReadFile(filepath.Join(child, name)); err != nil || strings.TrimSpace(string(own)) != "" {
			if err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(filepath.Join(child, name), value, 0); err != nil {
			return err
		}
	}
	return nil
}

// processes lists all processes in a cgroup and below it.
func (c Cgroups) processes(cgroup string) ([]int, error) {
	var pids []int
	err := walkFolders(c.folder(cgroup), func(folder string) error {
		text, err := os.ReadFile(filepath.Join(folder, "cgroup.procs"))
		if gone(err) {
			return nil
		}
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}

// kill ends all processes in a cgroup and below it, and returns when none is left.
func (c Cgroups) kill(cgroup string, patience time.Duration) error {
	// The caller may itself have been started inside, by node-exec.
	if pids, err := c.processes(cgroup); err == nil && slices.Contains(pids, os.Getpid()) {
		if err := join([]string{c.tracking}, os.Getpid()); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(patience)
	for {
		pids, err := c.processes(cgroup)
		if err != nil {
			return fmt.Errorf("cgroup %s: %w", cgroup, err)
		}
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cgroup %s: processes %v do not end", cgroup, pids)
		}
		c.thaw(cgroup)
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// thaw lets frozen processes run, without which version 1 does not deliver the signal that ends them.
func (c Cgroups) thaw(cgroup string) {
	if c.unified {
		return
	}
	_ = walkFolders(c.folder(cgroup), func(folder string) error {
		state := filepath.Join(folder, "freezer.state")
		if text, err := os.ReadFile(state); err == nil && strings.TrimSpace(string(text)) != "THAWED" {
			_ = os.WriteFile(state, []byte("THAWED"), 0)
		}
		return nil
	})
}

// remove takes away an empty cgroup with all below it, in every hierarchy, and then the parent that
// clusters share unless another still uses it.
func (c Cgroups) remove(cgroup string, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for _, root := range c.roots {
		for {
			err := removeFolders(filepath.Join(root, cgroup))
			if err == nil {
				break
			}
			// The kernel lets go of a cgroup a moment after its last process ended.
			if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("remove cgroup: %w", err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err := os.Remove(filepath.Join(root, filepath.Dir(cgroup))); err != nil &&
			!errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EBUSY) && !errors.Is(err, syscall.ENOTEMPTY) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}

func removeFolders(folder string) error {
	var folders []string
	err := walkFolders(folder, func(f string) error {
		folders = append(folders, f)
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range slices.Backward(folders) {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// walkFolders visits a folder and those below it, parents first; what vanishes meanwhile is no error.
func walkFolders(folder string, visit func(string) error) error {
	return filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case gone(err):
			return nil
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		}
		return visit(path)
	})
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
}
