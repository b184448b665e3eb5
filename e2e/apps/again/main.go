// Command again runs a program, and runs it again as soon as it ends, however it ended: a kubelet would wait longer
// each time.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

const usage = `usage:
  again PROGRAM ARGUMENT...   until told to stop
  again --copy FILE           put this program there, for the container of another image
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	err := error(nil)
	if os.Args[1] == "--copy" && len(os.Args) == 3 {
		err = copyTo(os.Args[2])
	} else {
		err = run(os.Args[1], os.Args[2:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "again:", err)
		os.Exit(1)
	}
}

func run(program string, args []string) error {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	for {
		child := exec.Command(program, args...)
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- child.Wait() }()
		select {
		case <-ended:
		case stop := <-told:
			// It may have ended by itself.
			if err := child.Process.Signal(stop); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return err
			}
			<-ended
			return nil
		}
	}
}

func copyTo(file string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	copied, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(copied, self); err != nil {
		return err
	}
	return copied.Close()
}
