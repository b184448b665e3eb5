package main

// `restart`: all machines lose power at once and come back. Every process is killed, that of the pods
// included; disks stay, and so do the namespaces that stand for machines and cables.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

func restart(ctx context.Context, layout Layout, name string, output io.Writer) error {
	if _, err := running(layout, name); err != nil {
		return err
	}
	if err := errors.Join(requireRoot("restart"), layout.checkOwner()); err != nil {
		return err
	}
	lock, err := lockCluster(ctx, name, output)
	if err != nil {
		return err
	}
	// Somebody else may have taken it down while this waited for its turn.
	record, err := running(layout, name)
	if err != nil {
		return errors.Join(err, lock.release())
	}
	began := time.Now()
	if err := powerCycle(ctx, layout, record); err != nil {
		return errors.Join(err, lock.release())
	}
	fmt.Fprintf(output, "cluster %s was restarted in %.1f s\n", name, time.Since(began).Seconds())
	return lock.release()
}

func powerCycle(ctx context.Context, layout Layout, record Record) error {
	cgroups, err := detectCgroups()
	if err != nil {
		return err
	}
	plan := record.Plan
	if err := cgroups.kill(plan.Cgroup(), endPatience); err != nil {
		return err
	}
	// A kubelet that found the cgroups of containers from before would look for them, seconds for each.
	if err := cgroups.remove(plan.Cgroup(), endPatience); err != nil {
		return err
	}
	for _, node := range plan.AllNodes() {
		err := errors.Join(cgroups.create(node.Cgroup), emptyRun(layout, node), writeNode(layout, plan, node))
		if err != nil {
			return err
		}
	}
	// Not ready until it is: who cuts this short gets a new cluster at the next `up`.
	c := &creation{layout: layout, record: Record{Plan: plan, Built: record.Built}}
	if err := layout.save(c.record); err != nil {
		return err
	}
	if c.tracked, err = cgroups.createTracked(plan.Cgroup() + "/servers"); err != nil {
		return err
	}
	return c.run(ctx)
}

// emptyRun clears a node's /run, which is in memory on a real machine: no start finds a socket, a lock or a
// container there from before.
func emptyRun(layout Layout, node Node) error {
	entries, err := os.ReadDir(layout.Node(node, "run"))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(layout.Node(node, "run"), entry.Name())))
	}
	return err
}
