// The end-to-end suite: real pods on a real cluster, driven from where users stand.
package suite

import (
	"context"
	"flag"
	"fmt"
	"os"
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
	os.Exit(bed.Lie("../..", limit, os.Stdout, bed.Shop, func(ctx context.Context, up *bed.Bed) (int, error) {
		mesh, cluster = up, up.Kube
		if err := openShop(ctx); err != nil {
			return 1, fmt.Errorf("shop: %w", err)
		}
		return m.Run(), nil
	}))
}
