package bed

// What one does only to a cluster of one's own, whose servers are processes of this machine.

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

// Own says whether the suite brought the cluster up, and may halt and restart its servers.
func (b *Bed) Own() bool { return b.own }

// Server of the own cluster.
type Server struct {
	pid int
}

// Server finds one by the name that `cluster status` shows.
func (b *Bed) Server(ctx context.Context, name string) (Server, error) {
	text, err := b.output(ctx, b.program(), "pid", name)
	if err != nil {
		return Server{}, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return Server{}, fmt.Errorf("the process id of %s: %w", name, err)
	}
	return Server{pid}, nil
}

// Freeze lets the server stand still: whoever asks it waits.
func (s Server) Freeze() error { return syscall.Kill(s.pid, syscall.SIGSTOP) }

// Thaw lets it go on where it stood; one that runs is not disturbed.
func (s Server) Thaw() error { return syscall.Kill(s.pid, syscall.SIGCONT) }

// Restart takes the power from all machines of the own cluster at once, and gives it back.
func (b *Bed) Restart(ctx context.Context) error { return b.run(ctx, b.program(), "restart") }
