package main

// How a server gets into its namespaces and cgroups: the cluster program starts itself with a Launch,
// moves in and becomes the server. The process id stays the same, so the one recorded is the server's.

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

const launchCommand = "launch"

// Launch is where and how one program runs.
type Launch struct {
	// Network is the name of the network namespace to join; empty: stay.
	Network string `json:"network,omitempty"`
	// Mounts is the process whose mount namespace to join; 0: stay.
	Mounts int `json:"mounts,omitempty"`
	// Covers are folders of the machine that the program sees others in place of, in a mount
	// namespace of its own: what it mounts ends with it, and what it writes lands in the state.
	Covers map[string]string `json:"covers,omitempty"`
	// Cgroups are the folders of the cgroups to join.
	Cgroups []string `json:"cgroups,omitempty"`
	Program string   `json:"program"`
	Args    []string `json:"args"`
	Env     []string `json:"env"`
}

// Namespaces belong to a thread, and exec keeps those of the thread that calls it. It is the first one,
// on which init runs: if another called, the process would look dead for a moment.
func init() { runtime.LockOSThread() }

// launch ends this program by becoming the one asked for; it returns only an error.
func launch(text string) error {
	var l Launch
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return fmt.Errorf("launch: %w", err)
	}
	return l.exec()
}

func (l Launch) exec() error {
	if err := join(l.Cgroups, os.Getpid()); err != nil {
		return err
	}
	program, err := os.Open(l.Program)
	if err != nil {
		return fmt.Errorf("program: %w", err)
	}
	if l.Network != "" {
		if err := enterNetwork(l.Network); err != nil {
			return err
		}
	}
	if l.Mounts != 0 {
		if err := enterMounts(l.Mounts); err != nil {
			return err
		}
	}
	if len(l.Covers) > 0 {
		if err := coverMounts(l.Covers); err != nil {
			return err
		}
	}
	path := l.Program
	if !sameFile(program, path) {
		// The folders of the node cover the one that it lies in.
		path = fdPath(int(program.Fd()))
	}
	return fmt.Errorf("start %s: %w", l.Program, unix.Exec(path, l.Args, l.Env))
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// enterNetwork moves the calling thread into a network namespace.
func enterNetwork(name string) error {
	return enter(filepath.Join(namespaceDir, name), unix.CLONE_NEWNET)
}

func enterMounts(pid int) error {
	// A thread that shares its working directory with others may not change its mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("mount namespace of process %d: %w", pid, err)
	}
	return enter(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.CLONE_NEWNS)
}

func enter(path string, kind int) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), kind); err != nil {
		return fmt.Errorf("namespace %s: %w", path, err)
	}
	return nil
}

func coverMounts(covers map[string]string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("detach mounts from the machine's: %w", err)
	}
	// Sources are opened first: covering one folder may hide the source of the next.
	sources := make(map[string]int, len(covers))
	for target, source := range covers {
		fd, err := unix.Open(source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s, to be seen as %s: %w", source, target, err)
		}
		sources[target] = fd
	}
	for target, fd := range sources {
		if err := unix.Mount(fdPath(fd), target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", covers[target], target, err)
		}
	}
	// kubelet and containerd pass mounts to one another and to pods.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts within the node: %w", err)
	}
	return nil
}

// inNetwork runs f in a network namespace. f must not hand its work to other goroutines.
func inNetwork(name string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread is spoilt for others and ends with this goroutine.
		runtime.LockOSThread()
		if err := enterNetwork(name); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// join moves a process into cgroups.
func join(cgroups []string, pid int) error {
	for _, folder := range cgroups {
		err := os.WriteFile(filepath.Join(folder, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}
