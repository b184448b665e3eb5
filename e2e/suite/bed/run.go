package bed

// A suite from its first to its last moment, interrupts included.

import (
	"context"
	"fmt"
	"io"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// Lie brings everything up, lets the tests run, and takes everything down again, also when it is
// interrupted or the limit has passed; root is the way to the repository. It returns the exit code.
func Lie(root string, limit time.Duration, log io.Writer, equipment Equipment, tests func(context.Context, *Bed) (int, error)) int {
	complain := func(err error) int {
		fmt.Fprintln(log, "suite:", err)
		return 1
	}
	// Whoever read our output may be gone when we clean up after an interrupt.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	// The go command's own limit would end this process without taking anything down.
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	root, err := filepath.Abs(root)
	if err != nil {
		return complain(err)
	}
	bed, err := New(root, FromEnvironment(root), log)
	if err != nil {
		return complain(err)
	}
	ended := make(chan int, 1)
	go func() {
		err := bed.Up(ctx, equipment)
		code := 1
		if err == nil {
			code, err = tests(ctx, bed)
		}
		if err != nil {
			code = complain(err)
		}
		ended <- code
	}()
	code := 130
	select {
	case code = <-ended:
	case <-ctx.Done():
		fmt.Fprintln(log, "interrupted, or out of time: taking everything down")
	}
	grace, done := context.WithTimeout(context.Background(), 2*time.Minute)
	defer done()
	if err := bed.Down(grace); err != nil {
		return complain(err)
	}
	return code
}
