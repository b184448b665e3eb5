// Command report turns the stream of `go test -json` into a line for each test, the whole output of those
// that failed, and a last line that says how many passed and failed. It exits non-zero unless all passed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if !report(os.Stdin, os.Stdout) {
		os.Exit(1)
	}
}

// event is one line of test2json.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

type test struct{ pkg, name string }

// report is true if there were tests and all that were not skipped passed.
func report(from io.Reader, to io.Writer) bool {
	output := map[test]*strings.Builder{}
	parents := map[test]bool{}
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
		key := test{e.Package, e.Test}
		switch e.Action {
		case "run":
			output[key] = &strings.Builder{}
			if slash := strings.LastIndex(e.Test, "/"); slash > 0 {
				parents[test{e.Package, e.Test[:slash]}] = true
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
			if parents[key] {
				continue
			}
			fmt.Fprintf(to, "%-4s %s (%.1f s)\n", e.Action, e.Test, e.Elapsed)
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
