package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// pseudoTerminal has a shell at its other end, as its session's leader; the shell remembers.
func pseudoTerminal() func() {
	master := must(os.OpenFile("/dev/ptmx", os.O_RDWR, 0))
	fd := int(master.Fd())
	ok(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	slave := must(os.OpenFile(fmt.Sprintf("/dev/pts/%d", must(unix.IoctlGetInt(fd, unix.TIOCGPTN))), os.O_RDWR|unix.O_NOCTTY, 0))
	ok(unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 111}))
	mode := must(unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS))
	mode.Lflag &^= unix.ECHO
	ok(unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, mode))
	sh := exec.Command("sh", "-c", "n=0; while read -r _; do n=$((n+1)); echo $n; done")
	sh.Stdin, sh.Stdout, sh.Stderr = slave, slave, slave
	sh.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	ok(sh.Start())
	ok(slave.Close()) // CRIU gives up on a terminal that its session's parent has open too
	out, n := bufio.NewReader(master), 0
	return func() {
		n++
		must(fmt.Fprintln(master, "go on"))
		expect("it says", strings.TrimSpace(must(out.ReadString('\n'))), fmt.Sprint(n))
		size := must(unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ))
		expect("rows", size.Row, 33)
		expect("columns", size.Col, 111)
		expect("session", must(unix.IoctlGetInt(fd, unix.TIOCGSID)), sh.Process.Pid)
	}
}

func childWithPipes() func() {
	cat := exec.Command("cat")
	in, out := must(cat.StdinPipe()), must(cat.StdoutPipe())
	ok(cat.Start())
	return underWay(in, out)
}

// stoppedChild is stopped between checks, and goes on when it is told to.
func stoppedChild(command ...string) func() func() {
	return func() func() {
		child := exec.Command(command[0], command[1:]...)
		must(child.StdinPipe())
		ok(child.Start())
		becomes := func(sig unix.Signal, want func(unix.WaitStatus) bool) {
			ok(child.Process.Signal(sig))
			var ws unix.WaitStatus
			for !want(ws) {
				must(unix.Wait4(child.Process.Pid, &ws, unix.WUNTRACED|unix.WCONTINUED, nil))
			}
		}
		becomes(unix.SIGSTOP, unix.WaitStatus.Stopped)
		return func() {
			expect("state", state(child.Process.Pid), "T")
			becomes(unix.SIGCONT, unix.WaitStatus.Continued)
			becomes(unix.SIGSTOP, unix.WaitStatus.Stopped)
		}
	}
}

// zombieChild has ended with a code that nobody has asked for; the last check's is asked for.
func zombieChild() func() {
	n := 0
	start := func() *exec.Cmd {
		n++
		child := exec.Command("sh", "-c", fmt.Sprintf("exit %d", n))
		ok(child.Start())
		var info unix.Siginfo
		ok(unix.Waitid(unix.P_PID, child.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil))
		return child
	}
	child := start()
	return func() {
		expect("state", state(child.Process.Pid), "Z")
		_ = child.Wait()
		expect("exit code", child.ProcessState.ExitCode(), n)
		child = start()
	}
}

func state(pid int) string {
	_, after, _ := strings.Cut(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)))), ") ")
	return after[:1]
}
