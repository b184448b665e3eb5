package main

// `status`: what of a cluster runs, in words for people.

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"
)

func status(ctx context.Context, layout Layout, name string, output io.Writer) error {
	record, err := running(layout, name)
	if err != nil {
		return err
	}
	plan := record.Plan
	table := tabwriter.NewWriter(output, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "cluster\t%s, Kubernetes %s\n", name, kubernetesVersion)
	fmt.Fprintf(table, "API\t%s\n", plan.API())
	fmt.Fprintf(table, "kubeconfig\t%s\n", layout.Kubeconfig())
	fmt.Fprintf(table, "pods\t%s %s\n", plan.Pods4(), plan.Pods6())
	fmt.Fprintf(table, "services\t%s %s\n", plan.Services4(), plan.Services6())
	fmt.Fprintf(table, "outside\t%s %s\n", plan.Outside4(), plan.Outside6())
	for _, node := range plan.AllNodes() {
		fmt.Fprintf(table, "node %s\t%s %s\n", node.Name, node.IPv4, node.IPv6)
	}
	for _, process := range record.Servers {
		state := fmt.Sprintf("process %d", process.PID)
		if !process.Alive() {
			state = "ENDED, see " + process.Log
		}
		fmt.Fprintf(table, "%s\t%s\n", process.Name, state)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	began := time.Now()
	if err := healthy(ctx, layout, record); err != nil {
		return fmt.Errorf("cluster %s is not well: %w", name, err)
	}
	_, err = fmt.Fprintf(output, "all nodes ready, DNS answers everywhere (checked in %.1f s)\n", time.Since(began).Seconds())
	return err
}

// pid prints the process id of a server that runs, for whoever wants to halt or to trace it.
func pid(layout Layout, name string, arguments []string, output io.Writer) error {
	if len(arguments) != 1 {
		return misuse("pid wants SERVER")
	}
	record, err := running(layout, name)
	if err != nil {
		return err
	}
	process, err := record.server(arguments[0])
	if err != nil {
		return err
	}
	if !process.Alive() {
		return serverFailure(process.Name+" has ended", process.Log)
	}
	_, err = fmt.Fprintln(output, process.PID)
	return err
}

func sortedKeys(values map[string]string) []string {
	return slices.Sorted(maps.Keys(values))
}
