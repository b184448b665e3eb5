package main

// A server's process: started detached from the terminal, written down with what tells it from a later
// process under the same number.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const bootIDFile = "/proc/sys/kernel/random/boot_id"

// Process identifies a running server. Numbers are used again, so its start time belongs to it, and
// the boot from which that time counts.
type Process struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
	Boot  string `json:"boot"`
	Log   string `json:"log"`
}

// Alive says whether the very process that was started still runs.
func (p Process) Alive() bool {
	boot, err := bootID()
	if err != nil || boot != p.Boot {
		return false
	}
	status, err := readStatus(p.PID)
	return err == nil && status.start == p.Start && status.state != 'Z' && status.state != 'X'
}

// start runs a server that outlives this program.
func (l Launch) start(name, logFile string) (Process, error) {
	self, err := os.Executable()
	if err != nil {
		return Process{}, err
	}
	text, err := json.Marshal(l)
	if err != nil {
		return Process{}, err
	}
	output, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return Process{}, err
	}
	defer output.Close()
	command := exec.Command(self, launchCommand, string(text))
	command.Dir = "/"
	command.Env = l.Env
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return Process{}, fmt.Errorf("%s: %w", name, err)
	}
	process, err := identify(name, command.Process.Pid, logFile)
	if err != nil {
		return Process{}, errors.Join(fmt.Errorf("%s: %w", name, err), command.Process.Kill())
	}
	// While this program runs it is the parent, and a dead child stays a zombie until waited for.
	go command.Wait()
	return process, nil
}

func identify(name string, pid int, logFile string) (Process, error) {
	boot, err := bootID()
	if err != nil {
		return Process{}, err
	}
	status, err := readStatus(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{Name: name, PID: pid, Start: status.start, Boot: boot, Log: logFile}, nil
}

func bootID() (string, error) {
	text, err := os.ReadFile(bootIDFile)
	return strings.TrimSpace(string(text)), err
}

type processStatus struct {
	state byte
	start uint64
}

func readStatus(pid int) (processStatus, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return processStatus{}, err
	}
	return parseStatus(text)
}

// parseStatus reads /proc/PID/stat: the second field is the program's name in brackets, which may
// itself hold spaces and brackets, so fields are counted from its end.
func parseStatus(text []byte) (processStatus, error) {
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return processStatus{}, errors.New("process status has no program name")
	}
	fields := strings.Fields(string(text[end+1:]))
	const state, start = 3 - 3, 22 - 3
	if len(fields) <= start {
		return processStatus{}, fmt.Errorf("process status has %d fields after the name, want %d", len(fields), start+1)
	}
	since, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return processStatus{}, fmt.Errorf("process start time: %w", err)
	}
	return processStatus{state: fields[state][0], start: since}, nil
}

// serverFailure is an error for which a server's log has the reason. The log is read now: it may be gone
// when the error is printed.
func serverFailure(what, log string) error {
	last := lastLines(log, 20)
	if last == "" {
		return fmt.Errorf("%s; its log %s is empty", what, log)
	}
	return fmt.Errorf("%s; the last lines of its log %s:\n%s", what, log, last)
}

// lastLines reads the end of a log; one that cannot be read says so itself.
func lastLines(name string, count int) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
