// Package kube drives a cluster through kubectl, the way its users do.
package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Client runs one kubectl against one cluster.
type Client struct {
	// Kubectl is the program.
	Kubectl string
	// Config is the kubeconfig file.
	Config string
}

// Failure is a kubectl that ended with an error, and what it said.
type Failure struct {
	Args   []string
	Stderr string
	Stdout string
	Err    error
}

func (f *Failure) Error() string {
	return fmt.Sprintf("kubectl %s: %v\n%s%s", strings.Join(f.Args, " "), f.Err, f.Stderr, f.Stdout)
}

func (f *Failure) Unwrap() error { return f.Err }

// Command prepares a kubectl call.
func (c *Client) Command(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, c.Kubectl, args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+c.Config)
	command.WaitDelay = 5 * time.Second
	return command
}

// Try runs kubectl with the text as its input, and returns what it wrote to each output.
func (c *Client) Try(ctx context.Context, input string, args ...string) (stdout, stderr string, err error) {
	command := c.Command(ctx, args...)
	var out, complaint bytes.Buffer
	command.Stdout, command.Stderr = &out, &complaint
	if input != "" {
		command.Stdin = strings.NewReader(input)
	}
	if err := command.Run(); err != nil {
		return out.String(), complaint.String(), &Failure{args, complaint.String(), out.String(), err}
	}
	return out.String(), complaint.String(), nil
}

// Run is Try for those who only want the output.
func (c *Client) Run(ctx context.Context, args ...string) (string, error) {
	stdout, _, err := c.Try(ctx, "", args...)
	return stdout, err
}

// Get decodes `kubectl get ... -o json`.
func (c *Client) Get(ctx context.Context, into any, args ...string) error {
	stdout, err := c.Run(ctx, append(append([]string{"get"}, args...), "-o", "json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(stdout), into)
}

// Apply applies manifests and returns the warnings of admission.
func (c *Client) Apply(ctx context.Context, manifests string) (warnings string, err error) {
	_, stderr, err := c.Try(ctx, manifests, "apply", "-f", "-")
	return stderr, err
}

// Exec runs a program in a pod's container and returns its output.
func (c *Client) Exec(ctx context.Context, namespace, pod, container string, program ...string) (string, error) {
	return c.Run(ctx, append([]string{"exec", "-n", namespace, pod, "-c", container, "--"}, program...)...)
}

// Proxied reads a URL of a pod's port through the API server.
func (c *Client) Proxied(ctx context.Context, namespace, pod string, port int, path string) (string, error) {
	return c.Run(ctx, "get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy%s", namespace, pod, port, path))
}

// Stream is a program that runs in a pod until its input is closed.
type Stream struct {
	command *exec.Cmd
	input   io.WriteCloser
	output  bytes.Buffer
	errors  bytes.Buffer
	started chan struct{}
	ended   chan error
}

// ExecStream starts a program in a pod, and waits until it has written a line to its error output: the
// sign that it works.
func (c *Client) ExecStream(ctx context.Context, namespace, pod, container string, program ...string) (*Stream, error) {
	args := append([]string{"exec", "-i", "-n", namespace, pod, "-c", container, "--"}, program...)
	stream := &Stream{command: c.Command(ctx, args...), started: make(chan struct{}), ended: make(chan error, 1)}
	var err error
	if stream.input, err = stream.command.StdinPipe(); err != nil {
		return nil, err
	}
	stream.command.Stdout = &stream.output
	stream.command.Stderr = &firstLine{to: &stream.errors, seen: stream.started}
	if err := stream.command.Start(); err != nil {
		return nil, err
	}
	go func() { stream.ended <- stream.command.Wait() }()
	select {
	case <-stream.started:
		return stream, nil
	case err := <-stream.ended:
		return nil, &Failure{args, stream.errors.String(), stream.output.String(), errors.Join(errors.New("ended before it began"), err)}
	case <-ctx.Done():
		return nil, &Failure{args, "", "", fmt.Errorf("did not begin: %w", ctx.Err())}
	}
}

// End closes the program's input and returns what it printed.
func (s *Stream) End() (string, error) {
	s.input.Close()
	if err := <-s.ended; err != nil {
		return s.output.String(), &Failure{s.command.Args[1:], s.errors.String(), s.output.String(), err}
	}
	return s.output.String(), nil
}

// firstLine passes everything on and tells once that a line was complete.
type firstLine struct {
	to   *bytes.Buffer
	seen chan struct{}
	done bool
}

func (f *firstLine) Write(p []byte) (int, error) {
	f.to.Write(p)
	if !f.done && bytes.ContainsRune(p, '\n') {
		f.done = true
		close(f.seen)
	}
	return len(p), nil
}
