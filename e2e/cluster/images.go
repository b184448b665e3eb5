package main

// Images into nodes: each node's containerd has its own store, and imports what it lacks.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// imported counts what one node did.
type imported struct {
	loaded, there int
}

// loadImages imports archives into all nodes at once.
func loadImages(ctx context.Context, layout Layout, nodes []Node, archives []string) ([]imported, error) {
	wanted := make([]map[string]string, len(archives))
	for i, archive := range archives {
		var err error
		if wanted[i], err = archived(archive); err != nil {
			return nil, err
		}
	}
	results, failures := make([]imported, len(nodes)), make([]error, len(nodes))
	var group sync.WaitGroup
	for n, node := range nodes {
		group.Go(func() {
			results[n], failures[n] = importMissing(ctx, layout, node, archives, wanted)
		})
	}
	group.Wait()
	return results, errors.Join(failures...)
}

func importMissing(ctx context.Context, layout Layout, node Node, archives []string, wanted []map[string]string) (imported, error) {
	var result imported
	have, err := storedImages(ctx, layout, node)
	if err != nil {
		return result, fmt.Errorf("node %s: %w", node.Name, err)
	}
	for i, archive := range archives {
		if holds(have, wanted[i]) {
			result.there++
			continue
		}
		if _, err := ctr(ctx, layout, node, "images", "import", archive); err != nil {
			return result, fmt.Errorf("node %s: import %s: %w", node.Name, filepath.Base(archive), err)
		}
		result.loaded++
	}
	return result, nil
}

func holds(have, wanted map[string]string) bool {
	for name, digest := range wanted {
		if have[name] != digest {
			return false
		}
	}
	return true
}

// storedImages lists a node's images: their digests by name.
func storedImages(ctx context.Context, layout Layout, node Node) (map[string]string, error) {
	output, err := ctr(ctx, layout, node, "images", "list")
	if err != nil {
		return nil, err
	}
	return parseImages(output), nil
}

// parseImages reads the table REF TYPE DIGEST ... with its heading.
func parseImages(table string) map[string]string {
	images := map[string]string{}
	for _, line := range strings.Split(table, "\n") {
		if fields := strings.Fields(line); len(fields) > 2 && strings.HasPrefix(fields[2], "sha256:") {
			images[fields[0]] = fields[2]
		}
	}
	return images
}

// containerdAnswers is nil when a node's containerd can be asked. ctr would wait for a socket that is not
// there, and outlive this program if that were killed.
func containerdAnswers(ctx context.Context, layout Layout, node Node) error {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "unix", layout.Containerd(node))
	if err != nil {
		return err
	}
	if err := connection.Close(); err != nil {
		return err
	}
	_, err = ctr(ctx, layout, node, "version")
	return err
}

// ctr talks to a node's containerd, about the images and containers of Kubernetes.
func ctr(ctx context.Context, layout Layout, node Node, arguments ...string) (string, error) {
	socket := layout.Containerd(node)
	arguments = append([]string{"--address", socket, "--connect-timeout", "2s", "--namespace", "k8s.io"}, arguments...)
	command := exec.CommandContext(ctx, "ctr", arguments...)
	var output, problem bytes.Buffer
	command.Stdout, command.Stderr = &output, &problem
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("ctr: %w: %s", err, strings.TrimSpace(problem.String()))
	}
	return output.String(), nil
}
