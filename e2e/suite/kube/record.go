package kube

// A program in a pod whose output is collected while it runs.

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"sync"
)

// Recording collects a program's output until Stop.
type Recording struct {
	command *exec.Cmd
	mutex   sync.Mutex
	output  bytes.Buffer
	ended   chan error
}

// Record starts a program in a pod and waits for the first line of its error output.
func (c *Client) Record(ctx context.Context, namespace, pod, container string, program ...string) (*Recording, error) {
	args := append([]string{"exec", "-n", namespace, pod, "-c", container, "--"}, program...)
	recording := &Recording{command: c.Command(ctx, args...), ended: make(chan error, 1)}
	var complaint bytes.Buffer
	started := make(chan struct{})
	recording.command.Stdout = recording
	recording.command.Stderr = &firstLine{to: &complaint, seen: started}
	if err := recording.command.Start(); err != nil {
		return nil, err
	}
	go func() { recording.ended <- recording.command.Wait() }()
	select {
	case <-started:
		return recording, nil
	case err := <-recording.ended:
		return nil, &Failure{args, complaint.String(), "", errors.Join(errors.New("ended before it began"), err)}
	}
}

// Write receives the program's output.
func (r *Recording) Write(p []byte) (int, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.output.Write(p)
}

// Output is what was written until now.
func (r *Recording) Output() []byte {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return bytes.Clone(r.output.Bytes())
}

// Stop ends the recording; the program itself ends with its pod.
func (r *Recording) Stop() {
	_ = r.command.Process.Kill()
	<-r.ended
}
