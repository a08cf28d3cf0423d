package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/agent/api"
)

// openPTY returns both ends of a pseudo terminal.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("pseudo terminals cannot be opened here: %v", err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func TestRawTerminal(t *testing.T) {
	master, slave := openPTY(t)
	resize := func(rows, cols uint16) {
		if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
			t.Fatal(err)
		}
	}
	flags := func() uint32 {
		a, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return a.Lflag
	}
	before := flags()
	resize(30, 100)
	term, err := rawTerminal(slave)
	if err != nil {
		t.Fatal(err)
	}
	if want := (api.Resize{Rows: 30, Cols: 100}); term.size != want {
		t.Errorf("size %+v, want %+v", term.size, want)
	}
	if flags()&unix.ECHO != 0 {
		t.Error("it still echoes")
	}
	resize(31, 101)
	term.signals <- syscall.SIGWINCH
	if got, want := <-term.resized, (api.Resize{Rows: 31, Cols: 101}); got != want {
		t.Errorf("resized to %+v, want %+v", got, want)
	}
	term.close()
	if _, open := <-term.resized; open {
		t.Error("sizes are still told after close")
	}
	if flags() != before {
		t.Error("the terminal is not as it was")
	}
	if _, err := rawTerminal(strings.NewReader("")); err == nil {
		t.Error("a string is no terminal")
	}
}
