// Command report turns the stream of `go test -json` into a line for each test, the whole output of those
// that failed, and a last line that says how many passed and failed. It exits non-zero unless all passed.
//
// A test with subtests is what its subtests are. With -depth N those below the Nth level count as part of
// the test above them.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

func main() {
	depth := flag.Int("depth", 0, "level of subtests down to which there is a line for each; 0: all levels")
	flag.Parse()
	if !report(os.Stdin, os.Stdout, *depth) {
		os.Exit(1)
	}
}

// event is one line of test2json.
type event struct {
	Time    time.Time
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

type test struct{ pkg, name string }

// parent is the test above, down to a level of names.
func parent(name string) string { return name[:max(0, strings.LastIndexByte(name, '/'))] }

// shown is the name under which a test is reported.
func shown(name string, depth int) string {
	for depth > 0 && strings.Count(name, "/") >= depth {
		name = parent(name)
	}
	return name
}

// report is true if there were tests and all that were not skipped passed.
func report(from io.Reader, to io.Writer, depth int) bool {
	output := map[test]*strings.Builder{}
	parents := map[test]bool{}
	// begun is when each test began, or went on after it had made way for others.
	begun := map[test]time.Time{}
	// broken are tests above one that failed, which is reported by itself.
	broken := map[test]bool{}
	blamed := map[string]bool{}
	var passed, failed, skipped int
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, 0, 1<<16), 1<<26)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(to, lines.Text())
			continue
		}
		key := test{e.Package, shown(e.Test, depth)}
		if key.name != e.Test {
			// Part of another one, whose own end says how it went.
			if output[key] != nil {
				output[key].WriteString(e.Output)
			}
			continue
		}
		switch e.Action {
		case "cont":
			begun[key] = e.Time
		case "run":
			begun[key] = e.Time
			output[key] = &strings.Builder{}
			if above := parent(e.Test); above != "" {
				parents[test{e.Package, above}] = true
			}
		case "output", "build-output":
			// What belongs to no test is the bed's own progress.
			if e.Test == "" {
				fmt.Fprint(to, filtered(e.Output))
			} else if output[key] != nil {
				output[key].WriteString(e.Output)
			}
		case "pass", "fail", "skip":
			if e.Test == "" {
				// A package can fail without a test: it did not compile, or its bed did not come up.
				if e.Action == "fail" && !blamed[e.Package] && !unfinished(output, e.Package) {
					fmt.Fprintf(to, "fail %s (%.1f s)\n", e.Package, e.Elapsed)
					failed++
				}
				continue
			}
			blamed[e.Package] = blamed[e.Package] || e.Action == "fail"
			if e.Action == "fail" || e.Action == "skip" {
				fmt.Fprint(to, output[key])
			}
			delete(output, key)
			if above := parent(e.Test); above != "" && e.Action == "fail" {
				broken[test{e.Package, above}] = true
			}
			// It may fail by itself, after its subtests.
			if parents[key] && (e.Action != "fail" || broken[key]) {
				continue
			}
			// What go test measured is without subtests that ran side by side.
			elapsed := max(e.Elapsed, e.Time.Sub(begun[key]).Seconds())
			fmt.Fprintf(to, "%-4s %s (%.1f s)\n", e.Action, e.Test, elapsed)
			switch e.Action {
			case "pass":
				passed++
			case "fail":
				failed++
			case "skip":
				skipped++
			}
		}
	}
	// A test that never ended took the whole program down with it.
	for key, text := range output {
		if !parents[key] {
			fmt.Fprintf(to, "%sfail %s (did not end)\n", text, key.name)
			failed++
		}
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(to, "report:", err)
		failed++
	}
	if skipped > 0 {
		fmt.Fprintf(to, "%d skipped\n", skipped)
	}
	fmt.Fprintf(to, "%d passed, %d failed\n", passed, failed)
	return failed == 0 && passed > 0
}

func unfinished(output map[test]*strings.Builder, pkg string) bool {
	for key := range output {
		if key.pkg == pkg {
			return true
		}
	}
	return false
}

// filtered drops the lines by which go test ends a package; the last line of all must be ours.
func filtered(line string) string {
	for _, end := range []string{"PASS", "ok  \t", "?   \t"} {
		if strings.HasPrefix(line, end) {
			return ""
		}
	}
	return line
}
