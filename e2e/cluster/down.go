package main

// `down`: takes away all that a cluster of this name may have left, in whatever state it is. Everything
// is found by name, so no record is needed and a second time does nothing.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const endPatience = 20 * time.Second

func down(ctx context.Context, layout Layout, name string, output io.Writer) error {
	if err := errors.Join(requireRoot("down"), layout.checkOwner()); err != nil {
		return err
	}
	lock, err := lockCluster(ctx, name, output)
	if err != nil {
		return err
	}
	began := time.Now()
	_, before := os.Lstat(layout.Link)
	if err := teardown(ctx, layout, name, false); err != nil {
		return errors.Join(err, lock.release())
	}
	if before == nil {
		fmt.Fprintf(output, "cluster %s is down, in %.1f s\n", name, time.Since(began).Seconds())
	} else {
		fmt.Fprintf(output, "cluster %s was not up\n", name)
	}
	return unlockCluster(lock)
}

// teardown removes a cluster; each part is tried whatever became of the others.
func teardown(ctx context.Context, layout Layout, name string, keepLogs bool) error {
	plan := Plan{Name: name}
	cgroups, err := detectCgroups()
	if err != nil {
		return err
	}
	// A server that died before it moved into its cgroup is known only from the record.
	record, _ := layout.load()
	var all error
	for _, process := range record.Servers {
		if process.Alive() {
			if err := syscall.Kill(process.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				all = errors.Join(all, fmt.Errorf("kill %s: %w", process.Name, err))
			}
		}
	}
	all = errors.Join(all,
		cgroups.kill(plan.Cgroup(), endPatience),
		removeNetwork(ctx, plan),
		unmountUnder(layout.State),
		cgroups.remove(plan.Cgroup(), endPatience))
	if all != nil {
		// The state says what is left to remove: it stays for the next attempt.
		return all
	}
	return errors.Join(removeState(layout, keepLogs), leaveMachine(ctx, layout))
}

func removeState(layout Layout, keepLogs bool) error {
	entries, err := os.ReadDir(layout.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if keepLogs && entry.Name() == "log" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(layout.State, entry.Name())); err != nil {
			return err
		}
	}
	if keepLogs {
		return nil
	}
	// The folder of all clusters goes with the last one of this cache.
	err = os.Remove(layout.State)
	if removed := os.Remove(filepath.Dir(layout.State)); removed != nil && !errors.Is(removed, syscall.ENOTEMPTY) {
		err = errors.Join(err, removed)
	}
	return err
}

// unmountUnder removes mounts on the machine itself. A cluster makes none there, but what a person
// mounts in its folders must not be deleted with them.
func unmountUnder(folder string) error {
	points, err := mountsUnder(folder)
	if err != nil {
		return err
	}
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

// mountsUnder lists mount points at a folder and below it, in the order in which they were made.
func mountsUnder(folder string) ([]string, error) {
	file, err := os.Open(mountInfo)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return parseMounts(file, folder)
}

func parseMounts(mounts io.Reader, folder string) ([]string, error) {
	var points []string
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		point := unescape.Replace(fields[4])
		if point == folder || strings.HasPrefix(point, folder+"/") {
			points = append(points, point)
		}
	}
	return points, lines.Err()
}

// unescape reads the kernel's way of writing a path in one field.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
