// The end-to-end suite: real pods on a real cluster, driven from where users stand.
package suite

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"trellis.dev/e2e/suite/bed"
	"trellis.dev/e2e/suite/kube"
)

// The bed that all tests lie on, and the cluster in it.
var (
	mesh    *bed.Bed
	cluster *kube.Client
)

// limit of the whole suite, a little below that of the go command in e2e/run.
const limit = 35 * time.Minute

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Whoever read our output may be gone when we clean up after an interrupt.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	// The go command's own limit would end this process without taking anything down.
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	root, err := filepath.Abs("../..")
	if err != nil {
		return complain(err)
	}
	mesh, err = bed.New(root, bed.FromEnvironment(root), os.Stdout)
	if err != nil {
		return complain(err)
	}

	ended := make(chan int, 1)
	go func() { ended <- lieDown(ctx, m) }()
	code := 130
	select {
	case code = <-ended:
	case <-ctx.Done():
		fmt.Println("interrupted, or out of time: taking everything down")
	}
	grace, done := context.WithTimeout(context.Background(), 2*time.Minute)
	defer done()
	if err := mesh.Down(grace); err != nil {
		return complain(err)
	}
	return code
}

func lieDown(ctx context.Context, m *testing.M) int {
	if err := mesh.Up(ctx); err != nil {
		return complain(err)
	}
	cluster = mesh.Kube
	if err := openShop(ctx); err != nil {
		return complain(fmt.Errorf("shop: %w", err))
	}
	return m.Run()
}

func complain(err error) int {
	fmt.Println("suite:", err)
	return 1
}
