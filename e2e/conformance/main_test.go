package conformance

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/gateway-api/conformance/tests"

	"trellis.dev/e2e/conformance/verdict"
	"trellis.dev/e2e/suite/bed"
)

const (
	root = "../.."
	// limit of the whole run, a little below that of the go command in the script `run`.
	limit = 25 * time.Minute
	// atOnce is how many of the tests that allow it run side by side: they wait more than they work.
	atOnce = "4"
)

// The bed that all tests lie on.
var mesh *bed.Bed

func TestMain(m *testing.M) {
	flag.Parse()
	wants, err := equipment(root)
	if err == nil {
		err = choose()
	}
	if err != nil {
		fmt.Println("suite:", err)
		os.Exit(1)
	}
	os.Exit(bed.Lie(root, limit, os.Stdout, wants, func(ctx context.Context, up *bed.Bed) (int, error) {
		mesh = up
		code := m.Run()
		for _, line := range summary() {
			fmt.Println(line)
		}
		return code, nil
	}))
}

// choose understands -run NAME as the name of tests of the suite, which stand below two of Go's.
func choose() error {
	if flag.Lookup("test.parallel").Value.String() == flag.Lookup("test.parallel").DefValue {
		if err := flag.Set("test.parallel", atOnce); err != nil {
			return err
		}
	}
	pattern := flag.Lookup("test.run").Value.String()
	if pattern == "" || strings.HasPrefix(pattern, "Test") || strings.ContainsAny(pattern, "/^") {
		return nil
	}
	wanted, err := regexp.Compile(pattern)
	if err != nil {
		return fmt.Errorf("-run %s: %w", pattern, err)
	}
	parents := map[bool]string{}
	for _, test := range tests.ConformanceTests {
		if wanted.MatchString(test.ShortName) {
			parents[verdict.OfMesh(test)] = map[bool]string{true: "Mesh", false: "Gateway"}[verdict.OfMesh(test)]
		}
	}
	if len(parents) == 0 {
		return fmt.Errorf("-run %s: no test of the suite is called so", pattern)
	}
	var names []string
	for _, name := range parents {
		names = append(names, name)
	}
	return flag.Set("test.run", "^Test("+strings.Join(names, "|")+")$/"+pattern)
}
