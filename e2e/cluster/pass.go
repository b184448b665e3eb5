package main

// Commands that become another program: this process turns into it, so signals, terminal and exit code
// are its own.

import (
	"fmt"
	"os"
	"syscall"
)

func passes(command string) bool {
	switch command {
	case "kubectl", "helm", "shell", "node-exec", "ext-exec":
		return true
	}
	return false
}

func passOn(name, command string, arguments []string) error {
	layout, err := layoutOf(name)
	if err != nil {
		return err
	}
	record, err := running(layout, name)
	if err != nil {
		return err
	}
	environment := clientEnvironment(layout, os.Environ())
	switch command {
	case "kubectl", "helm":
		program := layout.path("bin", command)
		return become(program, append([]string{command}, arguments...), environment)
	case "shell":
		shell := os.Getenv("SHELL")
		if shell == "" {
			shell = "/bin/sh"
		}
		fmt.Fprintf(os.Stderr, "cluster %s: KUBECONFIG, kubectl and helm are set; leave with exit\n", name)
		return become(shell, append([]string{shell}, arguments...), environment)
	case "ext-exec":
		return execIn(record.Plan, record.Plan.Outside(), command+" CMD...", arguments, environment)
	}
	if len(arguments) == 0 {
		return misuse("node-exec wants NODE CMD...")
	}
	for _, node := range record.Plan.AllNodes() {
		if node.Name == arguments[0] {
			return execIn(record.Plan, node.Namespace, command+" NODE CMD...", arguments[1:], environment)
		}
	}
	return fmt.Errorf("node-exec: no node %q; the cluster has n1 to n%d", arguments[0], record.Plan.Nodes)
}

func become(program string, arguments, environment []string) error {
	err := syscall.Exec(program, arguments, environment)
	return fmt.Errorf("start %s: %w", program, err)
}

// execIn runs a command in a network namespace of the cluster. It also joins the cluster's cgroup:
// `down` ends it with the rest, or it would hold the namespace.
func execIn(plan Plan, space, usage string, arguments, environment []string) error {
	if err := requireRoot(usage); err != nil {
		return err
	}
	if len(arguments) == 0 {
		return misuse("want %s", usage)
	}
	program, err := lookPath(arguments[0])
	if err != nil {
		return err
	}
	cgroups, err := detectCgroups()
	if err != nil {
		return err
	}
	folder, err := cgroups.createTracked(plan.Cgroup() + "/exec")
	if err != nil {
		return err
	}
	return Launch{Network: space, Cgroups: []string{folder}, Program: program, Args: arguments, Env: environment}.exec()
}
