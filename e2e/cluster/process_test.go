package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStatusWithAnyProgramName(t *testing.T) {
	rest := " S" + strings.Repeat(" 1", 18) + " 4711" + strings.Repeat(" 1", 30)
	for _, name := range []string{"kubelet", "a b", "x) Z 1 1", "((", ""} {
		status, err := parseStatus([]byte("12 (" + name + ")" + rest))
		if err != nil || status.state != 'S' || status.start != 4711 {
			t.Errorf("%q: %+v, %v", name, status, err)
		}
	}
	for _, text := range []string{"", "12 (x", "12 (x) S 1 2 3", "12 (x) S" + strings.Repeat(" x", 40)} {
		if _, err := parseStatus([]byte(text)); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestOnlyTheVeryProcessIsAlive(t *testing.T) {
	self, err := identify("self", os.Getpid(), "")
	if err != nil {
		t.Fatal(err)
	}
	if !self.Alive() {
		t.Error("this process is not alive")
	}
	for what, change := range map[string]func(*Process){
		"a later process of the same number": func(p *Process) { p.Start++ },
		"a process of an earlier boot":       func(p *Process) { p.Boot = "another" },
		"no process":                         func(p *Process) { p.PID = 1 << 30 },
	} {
		other := self
		change(&other)
		if other.Alive() {
			t.Errorf("%s was taken for this one", what)
		}
	}
}

func TestDeadButNotBuriedIsNotAlive(t *testing.T) {
	command := exec.Command("/bin/sh", "-c", "read line")
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	process, err := identify("child", command.Process.Pid, "")
	if err != nil || !process.Alive() {
		t.Fatalf("%+v, %v", process, err)
	}
	if err := input.Close(); err != nil {
		t.Fatal(err)
	}
	// Waits for its end and leaves it a zombie.
	if err := unix.Waitid(unix.P_PID, process.PID, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if process.Alive() {
		t.Error("a zombie counts as alive")
	}
	command.Wait()
	if process.Alive() {
		t.Error("a process that was waited for counts as alive")
	}
}

func TestFailureShowsTheEndOfTheLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "x.log")
	var text strings.Builder
	for i := 1; i <= 30; i++ {
		fmt.Fprintf(&text, "line %d\n", i)
	}
	if err := os.WriteFile(log, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	said := serverFailure("x has ended", log).Error()
	if !strings.HasPrefix(said, "x has ended") || !strings.Contains(said, log) ||
		strings.Contains(said, "line 10\n") || !strings.Contains(said, "line 11\n") || !strings.HasSuffix(said, "line 30") {
		t.Errorf("said %q", said)
	}
	if said := serverFailure("x has ended", log+".none").Error(); !strings.Contains(said, "no such file") {
		t.Errorf("without a log: %q", said)
	}
}
