package main

// Locks on files, so that commands on one cluster, and builds into one cache, take turns.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Lock is held until it is released or the process ends.
type Lock struct {
	file *os.File
}

// acquire waits for its turn; notice is called once if there is somebody to wait for.
func acquire(ctx context.Context, name string, notice func()) (*Lock, error) {
	for waited := false; ; {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return nil, err
		}
		file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the last holder took the folder away just now
		}
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && sameFile(file, name) {
			return &Lock{file}, nil
		}
		// A lock on a file that its last holder removed is none: try the one that is there now.
		file.Close()
		if err == nil {
			continue
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if !waited {
			waited = true
			notice()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func sameFile(file *os.File, name string) bool {
	held, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(name)
	return err == nil && os.SameFile(held, there)
}

// release lets the next one in; the file stays.
func (l *Lock) release() error { return l.file.Close() }

// remove lets the next one in and leaves no file behind.
func (l *Lock) remove() error {
	return errors.Join(os.Remove(l.file.Name()), l.file.Close())
}

// lockCluster lets one command at a time change a cluster.
func lockCluster(ctx context.Context, name string, output io.Writer) (*Lock, error) {
	return acquire(ctx, filepath.Join(registryDir, name+".lock"), func() {
		fmt.Fprintf(output, "another command works on cluster %s; waiting for it\n", name)
	})
}

// unlockCluster ends the work on a cluster that no longer exists.
func unlockCluster(lock *Lock) error {
	err := lock.remove()
	// The folder goes unless others use it.
	if removed := os.Remove(registryDir); removed != nil && !errors.Is(removed, syscall.ENOTEMPTY) && !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return err
}
