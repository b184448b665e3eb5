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
	), &out)
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
	if report(lines(`{"Action":"run","Test":"TestA"}`, `{"Action":"fail","Elapsed":1}`), &out) {
		t.Error("reported as success")
	}
	if !strings.HasSuffix(out.String(), "0 passed, 1 failed\n") {
		t.Error(out.String())
	}
}

func TestNothingRunIsNoSuccess(t *testing.T) {
	var out bytes.Buffer
	if report(lines(`{"Action":"pass"}`), &out) {
		t.Error("reported as success")
	}
}

func TestPackageThatFailsWithoutATestIsCounted(t *testing.T) {
	var out bytes.Buffer
	report(lines(`{"Action":"build-output","Output":"x.go:1: no"}`, `{"Action":"fail","Package":"p"}`), &out)
	if !strings.HasSuffix(out.String(), "0 passed, 1 failed\n") {
		t.Error(out.String())
	}
}
