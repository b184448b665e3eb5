package main

// From built binaries to a cluster that answers. What can go side by side does: nodes import images
// while the API server starts.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	apiPatience  = 90 * time.Second
	nodePatience = 90 * time.Second
)

// creation is a cluster on its way up.
type creation struct {
	layout Layout
	// tracked is the folder of the cgroup by which `down` finds the servers.
	tracked string

	guard  sync.Mutex
	record Record
}

func create(ctx context.Context, layout Layout, name string, nodes int, built Built, now time.Time) error {
	plan, err := enterMachine(ctx, layout, name, nodes)
	if err != nil {
		return err
	}
	c := &creation{layout: layout, record: Record{Plan: plan, Built: built}}
	if err := c.prepare(ctx, plan, now); err != nil {
		return err
	}
	return c.run(ctx)
}

// run starts all servers on what is prepared, and returns when the cluster answers.
func (c *creation) run(ctx context.Context) error {
	plan := c.record.Plan
	parallel := []task{c.control}
	for _, node := range plan.AllNodes() {
		parallel = append(parallel, func(ctx context.Context) error { return c.containers(ctx, node) })
	}
	if err := together(ctx, parallel...); err != nil {
		return err
	}
	for _, node := range plan.AllNodes() {
		if err := c.join(node); err != nil {
			return err
		}
	}
	if err := c.awaitAll(ctx); err != nil {
		return err
	}
	c.record.Ready = true
	return c.layout.save(c.record)
}

// prepare makes all that needs no process: namespaces, cgroups, files and keys.
func (c *creation) prepare(ctx context.Context, plan Plan, now time.Time) error {
	cgroups, err := detectCgroups()
	if err != nil {
		return err
	}
	if c.tracked, err = cgroups.createTracked(plan.Cgroup() + "/servers"); err != nil {
		return err
	}
	for _, node := range plan.AllNodes() {
		if err := cgroups.create(node.Cgroup); err != nil {
			return err
		}
		if err := writeNode(c.layout, plan, node); err != nil {
			return err
		}
	}
	if err := createNetwork(ctx, plan); err != nil {
		return err
	}
	for program, target := range map[string]string{"kubectl": c.record.Built.Kube, "helm": c.record.Built.Helm} {
		if err := os.Symlink(target, c.layout.path("bin", program)); err != nil {
			return err
		}
	}
	if err := writeAuditPolicy(c.layout, os.Getenv(sourceVariable)); err != nil {
		return err
	}
	return writeKeys(c.layout, plan, now)
}

// control starts the control plane, gives it the name service to run, and puts the load balancer before it.
func (c *creation) control(ctx context.Context) error {
	plan := c.record.Plan
	space := plan.node(1).Namespace
	for _, server := range []Server{etcd(c.layout), apiServer(c.layout, plan)} {
		if _, err := c.start(server, Launch{Network: space}); err != nil {
			return err
		}
	}
	api, err := newAPI(c.layout, plan)
	if err != nil {
		return err
	}
	if err := c.await(ctx, apiPatience, "kube-apiserver", api.ready); err != nil {
		return err
	}
	for _, server := range []Server{controllerManager(c.layout), scheduler(c.layout)} {
		if _, err := c.start(server, Launch{Network: space}); err != nil {
			return err
		}
	}
	manifest, err := corednsManifest(plan)
	if err != nil {
		return err
	}
	if err := c.await(ctx, apiPatience, "kube-apiserver", func(ctx context.Context) error {
		return apply(ctx, c.layout, c.record.Built.Kube, manifest+"---\n"+balancerManifest)
	}); err != nil {
		return err
	}
	// It changes the routes of the machine and of the outside, so it stands with neither nodes nor pods.
	server, launch, err := balancer(plan)
	if err != nil {
		return err
	}
	_, err = c.start(server, launch)
	return err
}

// containers starts a node's containerd, in a mount namespace that the node's other servers then join.
func (c *creation) containers(ctx context.Context, node Node) error {
	program, err := lookPath("containerd")
	if err != nil {
		return err
	}
	name := "containerd-" + node.Name
	launch := Launch{
		Network: node.Namespace,
		Covers:  covers(c.layout, node),
		Program: program,
	}
	server := Server{name, []string{"--config=/run/containerd/config.toml"}}
	if _, err := c.start(server, launch); err != nil {
		return err
	}
	if err := c.await(ctx, nodePatience, name, func(ctx context.Context) error {
		return containerdAnswers(ctx, c.layout, node)
	}); err != nil {
		return err
	}
	_, err = loadImages(ctx, c.layout, []Node{node}, []string{c.record.Built.Pause, c.record.Built.Coredns})
	return err
}

// join starts what makes a node of a container runtime.
func (c *creation) join(node Node) error {
	runtime, err := c.record.server("containerd-" + node.Name)
	if err != nil {
		return err
	}
	for _, server := range []Server{kubelet(node), kubeProxy(node)} {
		if _, err := c.start(server, Launch{Network: node.Namespace, Mounts: runtime.PID}); err != nil {
			return err
		}
	}
	return nil
}

// awaitAll returns when everything works that `up` promises.
func (c *creation) awaitAll(ctx context.Context) error {
	plan := c.record.Plan
	api, err := newAPI(c.layout, plan)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		about string
		check task
	}{
		{"kube-controller-manager", func(ctx context.Context) error { return api.nodesReady(ctx, plan) }},
		{"kube-controller-manager", api.admitsPods},
		{"kube-scheduler", api.dnsAvailable},
		{"kube-proxy-n1", func(ctx context.Context) error { return dnsAnswers(ctx, plan) }},
	} {
		if err := c.await(ctx, nodePatience, step.about, step.check); err != nil {
			return err
		}
	}
	return nil
}

// start starts a server and writes it down at once, so that `down` finds it after any crash.
func (c *creation) start(server Server, launch Launch) (Process, error) {
	if launch.Program == "" {
		launch.Program = c.record.Built.Kube
	}
	launch.Args = append([]string{server.Name}, server.Args...)
	launch.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/root"}
	launch.Cgroups = []string{c.tracked}
	process, err := launch.start(server.Name, c.layout.Log(server.Name))
	if err != nil {
		return Process{}, err
	}
	c.guard.Lock()
	defer c.guard.Unlock()
	c.record.Servers = append(c.record.Servers, process)
	return process, c.layout.save(c.record)
}

// await repeats a check until it passes. It gives up when time is over or any server has ended; about
// names the server whose log is most likely to say why, if the check itself does not.
func (c *creation) await(ctx context.Context, patience time.Duration, about string, check task) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ended := c.ended(); ended != nil {
			return ended
		}
		select {
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return ctx.Err()
			}
			var blamed blamedError
			if errors.As(err, &blamed) {
				about = blamed.server
			}
			return serverFailure(fmt.Sprintf("%s is not right after %s: %v", about, patience, err), c.layout.Log(about))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *creation) ended() error {
	c.guard.Lock()
	defer c.guard.Unlock()
	return c.record.ended()
}

func (r Record) server(name string) (Process, error) {
	for _, process := range r.Servers {
		if process.Name == name {
			return process, nil
		}
	}
	var known []string
	for _, process := range r.Servers {
		known = append(known, process.Name)
	}
	return Process{}, fmt.Errorf("the cluster has no server %q, but %s", name, strings.Join(known, ", "))
}

type task func(context.Context) error

// together runs tasks side by side; the first that fails stops the others.
func together(ctx context.Context, tasks ...task) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for _, t := range tasks {
		group.Go(func() {
			if err := t(ctx); err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

func requireRoot(command string) error {
	if syscall.Geteuid() == 0 {
		return nil
	}
	return fmt.Errorf("%s makes namespaces, mounts and cgroups: run it as root", command)
}
