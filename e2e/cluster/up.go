package main

// `up`: leaves a cluster alone that is well, and makes any other anew.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

const defaultNodes = 2

// up brings a cluster to the wanted size; 0 nodes: as many as it has, else the default.
func up(ctx context.Context, layout Layout, name string, nodes int, output io.Writer) error {
	if err := errors.Join(requireRoot("up"), layout.checkOwner()); err != nil {
		return err
	}
	builder, err := newBuilder(layout, output, false)
	if err != nil {
		return err
	}
	built, err := builder.all(ctx)
	if err != nil {
		return err
	}
	lock, err := lockCluster(ctx, name, output)
	if err != nil {
		return err
	}
	record, there := layout.load()
	if there == nil && record.Ready {
		if done, err := settled(ctx, layout, record, nodes, built, output); done || err != nil {
			return errors.Join(err, lock.release())
		}
	}
	if nodes == 0 {
		nodes = cmp.Or(record.Plan.Nodes, defaultNodes)
	}
	// Whatever a crash left behind goes first, also where no record tells of it.
	if err := teardown(ctx, layout, name, false); err != nil {
		return errors.Join(fmt.Errorf("removing the remains of a cluster: %w", err), lock.release())
	}
	began := time.Now()
	if err := create(ctx, layout, name, nodes, built, began); err != nil {
		// After an interrupt nothing stays; after a failure the logs do, until the next `up` or `down`.
		keepLogs := ctx.Err() == nil
		return errors.Join(err, teardown(context.WithoutCancel(ctx), layout, name, keepLogs), unlockCluster(lock))
	}
	fmt.Fprintf(output, "cluster %s is up with %s in %.1f s\nexport KUBECONFIG=%s\n", name, count(nodes, "node"),
		time.Since(began).Seconds(), layout.Kubeconfig())
	return lock.release()
}

// settled says whether there is nothing to do, because the cluster is well.
func settled(ctx context.Context, layout Layout, record Record, nodes int, built Built, output io.Writer) (bool, error) {
	name := record.Plan.Name
	if problem := healthy(ctx, layout, record); problem != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		first, _, _ := strings.Cut(problem.Error(), "\n")
		fmt.Fprintf(output, "cluster %s is not well and will be made anew: %s\n", name, first)
		return false, nil
	}
	if nodes != 0 && nodes != record.Plan.Nodes {
		return false, fmt.Errorf("--nodes %d: the cluster runs with %d; `down` it first, or leave --nodes out", nodes, record.Plan.Nodes)
	}
	if record.Built != built {
		fmt.Fprintln(output, "note: the cluster runs other binaries than this tree's; `down` and `up` renew it")
	}
	fmt.Fprintf(output, "cluster %s is up already with %s\n", name, count(record.Plan.Nodes, "node"))
	return true, nil
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
