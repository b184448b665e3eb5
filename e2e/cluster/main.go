// cluster runs a real Kubernetes on one machine, without a container engine: its nodes are network
// namespaces, its binaries are built from the modules of their projects.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

const (
	defaultName  = "e2e"
	nameVariable = "TRELLIS_CLUSTER_NAME"
)

const usage = `usage: cluster [--name NAME] COMMAND

  build                    build what a cluster is made of, and install missing Debian packages
  up [--nodes N]           start a cluster of 1 to 3 nodes, 2 unless told; nothing to do if it is well
  down                     stop it and remove all that it made
  restart                  as if all machines lost power at once and came back
  status                   what runs, and how well
  pid SERVER               print the process id of one of the servers that status lists
  load IMAGE.tar...        import OCI image archives into every node
  kubectl ARGS...          talk to the cluster
  helm ARGS...             install into the cluster
  shell                    a shell with KUBECONFIG set and kubectl and helm on its PATH
  kubeconfig               print the path of the administrator's kubeconfig
  node-exec NODE CMD...    run a command in a node's network namespace
  ext-exec CMD...          run a command in the network outside the cluster

A cluster is called "e2e" unless --name or ` + nameVariable + ` says otherwise.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:])
	stop()
	var ended *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &ended) && ended.ExitCode() > 0:
		os.Exit(ended.ExitCode())
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "cluster: interrupted")
		os.Exit(130)
	case errors.As(err, new(usageError)):
		fmt.Fprintf(os.Stderr, "cluster: %v; `cluster help` lists the commands\n", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func misuse(format string, arguments ...any) error {
	return usageError{fmt.Errorf(format, arguments...)}
}

func run(ctx context.Context, arguments []string) error {
	if len(arguments) == 2 && arguments[0] == launchCommand {
		return launch(arguments[1])
	}
	if len(arguments) == 2 && arguments[0] == balanceCommand {
		return balance(ctx, arguments[1])
	}
	// Servers and tools of the distribution lie where a plain user's PATH does not lead.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin"); err != nil {
		return err
	}
	name := os.Getenv(nameVariable)
	if name == "" {
		name = defaultName
	}
	arguments, err := flags("cluster", arguments, func(set *flag.FlagSet) { set.StringVar(&name, "name", name, "") })
	if err != nil {
		return err
	}
	if len(arguments) == 0 {
		return misuse("no command")
	}
	command := arguments[0]
	arguments = arguments[1:]
	if passes(command) {
		return passOn(name, command, arguments)
	}
	nodes := 0
	arguments, err = flags(command, arguments, func(set *flag.FlagSet) {
		set.StringVar(&name, "name", name, "")
		if command == "up" {
			set.Func("nodes", "", func(text string) (err error) {
				nodes, err = parseNodes(text)
				return err
			})
		}
	})
	if err != nil {
		return err
	}
	layout, err := layoutOf(name)
	if err != nil {
		return err
	}
	if len(arguments) > 0 && command != "load" && command != "pid" {
		return misuse("%s takes no argument, got %q", command, arguments)
	}
	switch command {
	case "build":
		return build(ctx, layout, os.Stdout)
	case "up":
		return up(ctx, layout, name, nodes, os.Stdout)
	case "down":
		return down(ctx, layout, name, os.Stdout)
	case "restart":
		return restart(ctx, layout, name, os.Stdout)
	case "status":
		return status(ctx, layout, name, os.Stdout)
	case "pid":
		return pid(layout, name, arguments, os.Stdout)
	case "load":
		return load(ctx, layout, name, arguments, os.Stdout)
	case "kubeconfig":
		if _, err := running(layout, name); err != nil {
			return err
		}
		fmt.Println(layout.Kubeconfig())
		return nil
	case "help":
		fmt.Print(usage)
		return nil
	}
	return misuse("unknown command %q", command)
}

// flags reads the options before the first argument.
func flags(command string, arguments []string, define func(*flag.FlagSet)) ([]string, error) {
	set := flag.NewFlagSet(command, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	define(set)
	if err := set.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return []string{"help"}, nil
		}
		return nil, usageError{err}
	}
	return set.Args(), nil
}

func layoutOf(name string) (Layout, error) {
	if err := checkName(name); err != nil {
		return Layout{}, usageError{err}
	}
	return newLayout(name, os.Getenv)
}

// running loads the record of a cluster that is up.
func running(layout Layout, name string) (Record, error) {
	record, err := layout.load()
	if errors.Is(err, os.ErrNotExist) || err == nil && !record.Ready {
		return Record{}, fmt.Errorf("cluster %s is not up; start it: cluster %sup", name, nameOption(name))
	}
	return record, err
}

func nameOption(name string) string {
	if name == defaultName {
		return ""
	}
	return "--name " + name + " "
}

func lookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%w; `cluster build` installs what is missing", err)
	}
	return path, nil
}

func build(ctx context.Context, layout Layout, output io.Writer) error {
	builder, err := newBuilder(layout, output, true)
	if err != nil {
		return err
	}
	_, err = builder.all(ctx)
	return err
}

func load(ctx context.Context, layout Layout, name string, archives []string, output io.Writer) error {
	if len(archives) == 0 {
		return misuse("load wants at least one IMAGE.tar")
	}
	record, err := running(layout, name)
	if err != nil {
		return err
	}
	nodes := record.Plan.AllNodes()
	results, err := loadImages(ctx, layout, nodes, archives)
	for i, node := range nodes {
		if results != nil {
			fmt.Fprintf(output, "node %s: %d loaded, %d there already\n", node.Name, results[i].loaded, results[i].there)
		}
	}
	return err
}

// clientEnvironment lets a client of the cluster find it, past any proxy of the environment.
func clientEnvironment(layout Layout, environment []string) []string {
	own := map[string]string{
		"KUBECONFIG": layout.Kubeconfig(),
		"PATH":       layout.path("bin") + ":" + os.Getenv("PATH"),
	}
	for _, variable := range []string{"NO_PROXY", "no_proxy"} {
		own[variable] = strings.TrimPrefix(os.Getenv(variable)+",198.18.0.0/15", ",")
	}
	var result []string
	for _, pair := range environment {
		if variable, _, _ := strings.Cut(pair, "="); own[variable] == "" {
			result = append(result, pair)
		}
	}
	for _, variable := range sortedKeys(own) {
		result = append(result, variable+"="+own[variable])
	}
	return result
}
