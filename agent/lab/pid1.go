package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// restartDelay is the pause before an agent that ended is started again.
const restartDelay = 300 * time.Millisecond

// pid1 is the init of a machine: it starts the agent again whenever it ends, and waits for orphans, which is what
// containers become when the agent that started them dies.
type pid1 struct {
	argv  []string // empty: no agent
	agent int      // pid, 0 while none runs
}

// runPID1 runs until SIGTERM. SIGUSR1 kills the agent, SIGUSR2 starts it at once.
func runPID1(argv []string) error {
	if os.Getpid() != 1 {
		return errors.New("lab-init run is for PID 1 of a lab's host only")
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	p := &pid1{argv: argv}
	p.reap() // what ended before signals were listened to
	restart := time.NewTimer(0)
	for {
		select {
		case <-restart.C:
			p.start(restart)
		case s := <-signals:
			switch s {
			case syscall.SIGCHLD:
				if p.reap() {
					restart.Reset(restartDelay)
				}
			case syscall.SIGUSR1:
				p.signal(syscall.SIGKILL)
			case syscall.SIGUSR2:
				restart.Reset(0)
			case syscall.SIGTERM:
				p.shutdown(signals)
				return nil
			}
		}
	}
}

// start starts the agent unless it runs, there is none, or it shall stay down.
func (p *pid1) start(again *time.Timer) {
	if _, err := os.Stat(filepath.Join(homeDir, stayFile)); err == nil || len(p.argv) == 0 || p.agent != 0 {
		return
	}
	pid, err := p.exec()
	if err != nil {
		fmt.Fprintf(os.Stderr, "the agent cannot be started: %v\n", err)
		again.Reset(time.Second)
		return
	}
	p.agent = pid
	if err := os.WriteFile(filepath.Join(homeDir, pidFile), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func (p *pid1) exec() (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	log, err := os.OpenFile(filepath.Join(homeDir, "agent.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	return syscall.ForkExec(p.argv[0], p.argv, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{null.Fd(), log.Fd(), log.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
}

// reap waits for everything that has ended and reports whether the agent was among it.
func (p *pid1) reap() (agent bool) {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if pid <= 0 || err != nil {
			return agent
		}
		if pid == p.agent {
			p.agent, agent = 0, true
			if err := os.Remove(filepath.Join(homeDir, pidFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
}

func (p *pid1) signal(s syscall.Signal) {
	if p.agent != 0 {
		_ = syscall.Kill(p.agent, s) // an unreaped child: the pid is still its own
	}
}

// shutdown lets the agent end, then ends everything else.
func (p *pid1) shutdown(signals <-chan os.Signal) {
	p.signal(syscall.SIGTERM)
	patience := time.After(3 * time.Second)
	for p.agent != 0 {
		select {
		case s := <-signals:
			if s == syscall.SIGCHLD {
				p.reap()
			}
		case <-patience:
			p.agent = 0
		}
	}
	_ = syscall.Kill(-1, syscall.SIGKILL)
}
