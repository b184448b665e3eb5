package main

import (
	"bytes"
	"strings"
	"testing"
)

func lines(events ...string) *strings.Reader { return strings.NewReader(strings.Join(events, "\n")) }

func TestCountsLeavesOnceAndShowsWhatFailed(t *testing.T) {
	var out bytes.Buffer
	good := report(lines(
		`{"Action":"output","Output":"cluster up\n"}`,
		`{"Action":"run","Test":"TestA"}`,
		`{"Action":"run","Test":"TestA/one"}`,
		`{"Action":"output","Test":"TestA/one","Output":"quiet\n"}`,
		`{"Action":"pass","Test":"TestA/one","Elapsed":1}`,
		`{"Action":"run","Test":"TestA/two"}`,
		`{"Action":"output","Test":"TestA/two","Output":"why it failed\n"}`,
		`{"Action":"fail","Test":"TestA/two","Elapsed":1}`,
		`{"Action":"fail","Test":"TestA","Elapsed":2}`,
		`{"Action":"run","Test":"TestB"}`,
		`{"Action":"pass","Test":"TestB","Elapsed":2}`,
		`{"Action":"output","Output":"PASS\n"}`,
	), &out, 0)
	if good {
		t.Error("a failed test was reported as success")
	}
	text := out.String()
	if !strings.HasSuffix(text, "\n2 passed, 1 failed\n") {
		t.Errorf("last line of:\n%s", text)
	}
	for _, want := range []string{"cluster up", "why it failed", "pass TestA/one", "fail TestA/two"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "quiet") {
		t.Errorf("output of a passed test in:\n%s", text)
	}
}

func TestTestThatNeverEndedFailed(t *testing.T) {
	var out bytes.Buffer
	if report(lines(`{"Action":"run","Test":"TestA"}`, `{"Action":"fail","Elapsed":1}`), &out, 0) {
		t.Error("reported as success")
	}
	if !strings.HasSuffix(out.String(), "0 passed, 1 failed\n") {
		t.Error(out.String())
	}
}

// Subtests that run side by side are no part of what go test measures; the time before a test's turn is none
// of its own.
func TestTimeOfATestIsAllThatItTook(t *testing.T) {
	var out bytes.Buffer
	report(lines(
		`{"Time":"2026-01-01T00:00:00Z","Action":"run","Test":"TestA"}`,
		`{"Time":"2026-01-01T00:00:00Z","Action":"run","Test":"TestA/one"}`,
		`{"Time":"2026-01-01T00:00:00Z","Action":"pause","Test":"TestA/one"}`,
		`{"Time":"2026-01-01T00:00:10Z","Action":"cont","Test":"TestA/one"}`,
		`{"Time":"2026-01-01T00:00:10Z","Action":"run","Test":"TestA/one/1"}`,
		`{"Time":"2026-01-01T00:00:15Z","Action":"pass","Test":"TestA/one/1","Elapsed":5}`,
		`{"Time":"2026-01-01T00:00:15Z","Action":"pass","Test":"TestA/one","Elapsed":0.01}`,
		`{"Time":"2026-01-01T00:00:15Z","Action":"pass","Test":"TestA","Elapsed":15}`,
	), &out, 2)
	if !strings.Contains(out.String(), "pass TestA/one (5.0 s)\n") {
		t.Error(out.String())
	}
}

func TestNothingRunIsNoSuccess(t *testing.T) {
	var out bytes.Buffer
	if report(lines(`{"Action":"pass"}`), &out, 0) {
		t.Error("reported as success")
	}
}

func TestPackageThatFailsWithoutATestIsCounted(t *testing.T) {
	var out bytes.Buffer
	report(lines(`{"Action":"build-output","Output":"x.go:1: no"}`, `{"Action":"fail","Package":"p"}`), &out, 0)
	if !strings.HasSuffix(out.String(), "0 passed, 1 failed\n") {
		t.Error(out.String())
	}
}

// A test may fail by what it does itself after its subtests have passed.
func TestParentThatFailsByItselfIsCounted(t *testing.T) {
	var out bytes.Buffer
	good := report(lines(
		`{"Action":"run","Test":"TestA"}`,
		`{"Action":"run","Test":"TestA/one"}`,
		`{"Action":"pass","Test":"TestA/one"}`,
		`{"Action":"output","Test":"TestA","Output":"something is missing\n"}`,
		`{"Action":"fail","Test":"TestA"}`,
	), &out, 0)
	if good || !strings.HasSuffix(out.String(), "1 passed, 1 failed\n") || !strings.Contains(out.String(), "something is missing") {
		t.Error(out.String())
	}
}

func TestDeepSubtestsCountAsTheirParent(t *testing.T) {
	var out bytes.Buffer
	report(lines(
		`{"Action":"run","Test":"TestA"}`,
		`{"Action":"run","Test":"TestA/one"}`,
		`{"Action":"run","Test":"TestA/one/1"}`,
		`{"Action":"pass","Test":"TestA/one/1"}`,
		`{"Action":"run","Test":"TestA/one/2"}`,
		`{"Action":"pass","Test":"TestA/one/2"}`,
		`{"Action":"pass","Test":"TestA/one"}`,
		`{"Action":"run","Test":"TestA/two"}`,
		`{"Action":"run","Test":"TestA/two/1"}`,
		`{"Action":"output","Test":"TestA/two/1","Output":"deep reason\n"}`,
		`{"Action":"fail","Test":"TestA/two/1"}`,
		`{"Action":"fail","Test":"TestA/two"}`,
		`{"Action":"fail","Test":"TestA"}`,
	), &out, 2)
	text := out.String()
	if !strings.HasSuffix(text, "1 passed, 1 failed\n") || !strings.Contains(text, "deep reason\nfail TestA/two") || strings.Contains(text, "TestA/one/1 (") {
		t.Error(text)
	}
}
