package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Machine is one host.
type Machine struct {
	Name, Address string

	dir   string
	index int
	ahead time.Duration // of its wall clock
	qemu  *exec.Cmd
	ended chan struct{} // closed when QEMU has ended
	ssh   *exec.Cmd     // holds the connection that all commands and the agent's socket go through
}

// boot switches the machine on. It is not reachable yet.
func (m *Machine) boot(image Image, payload string, memory int64, l *lan) error {
	tap := "tap" + strconv.Itoa(m.index)
	if err := l.tap(tap); err != nil {
		return fmt.Errorf("make the card of %s: %w", m.Name, err)
	}
	mac := fmt.Sprintf("02:78:00:00:00:%02x", m.index)
	args := []string{
		// One CPU: a kernel that patches its own code while another emulated one runs it has crashed, and few hosts have cores
		// for more.
		"-name", m.Name, "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", strconv.FormatInt(memory>>20, 10),
		"-display", "none", "-nodefaults", "-serial", "file:" + m.Console(), "-monitor", "none",
		"-rtc", "base=" + time.Now().Add(m.ahead).UTC().Format("2006-01-02T15:04:05"),
		"-kernel", image.Kernel, "-initrd", image.Initrd,
		"-append", "console=ttyS0 quiet no_timer_check systemd.show_status=1 lab.name=" + m.Name + " lab.address=" + m.Address + " lab.gateway=" + Gateway,
		"-drive", "if=virtio,format=raw,snapshot=on,file=" + image.Root,
		"-drive", "if=virtio,format=raw,readonly=on,file=" + payload,
		"-netdev", "tap,id=lan,script=no,downscript=no,ifname=" + tap, "-device", "virtio-net-pci,netdev=lan,mac=" + mac,
		"-device", "virtio-rng-pci",
	}
	log, err := os.Create(filepath.Join(m.dir, "qemu.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	m.qemu = exec.Command("qemu-system-x86_64", args...)
	m.qemu.Stdout, m.qemu.Stderr = log, log
	m.qemu.Env = append(os.Environ(), "TMPDIR="+m.dir) // what it writes to its disk
	if err := l.start(m.qemu); err != nil {
		return fmt.Errorf("start %s: %w", m.Name, err)
	}
	m.ended = make(chan struct{})
	go func() { defer close(m.ended); _ = m.qemu.Wait() }()
	return nil
}

// Console is the file of what its kernel and its systemd say.
func (m *Machine) Console() string { return filepath.Join(m.dir, "console.log") }

// Socket is where its agent answers.
func (m *Machine) Socket() string { return filepath.Join(m.dir, "agent.sock") }

// Shell is the command that opens a shell on it.
func (m *Machine) Shell() string { return "ssh -F none -S " + m.control() + " root@" + m.Name }

func (m *Machine) control() string { return filepath.Join(m.dir, "ssh") }

// connect waits until the machine lets us in.
func (m *Machine) connect(ctx context.Context, dir string, l *lan) error {
	for {
		for _, name := range []string{m.control(), m.Socket()} {
			_ = os.Remove(name) // of an earlier life
		}
		ssh := exec.Command("ssh", "-F", "none", "-N", "-M", "-S", m.control(), "-i", filepath.Join(dir, "key"),
			"-o", "UserKnownHostsFile="+filepath.Join(dir, "known_hosts"), "-o", "BatchMode=yes", "-o", "ConnectTimeout=20",
			"-o", "ServerAliveInterval=20", "-o", "ServerAliveCountMax=6", "-o", "KexAlgorithms=curve25519-sha256",
			"-o", "ExitOnForwardFailure=yes", "-L", m.Socket()+":/run/vzcluster/agent.sock", "root@"+m.Address)
		errs, err := os.Create(filepath.Join(m.dir, "ssh.log"))
		if err != nil {
			return err
		}
		ssh.Stderr = errs
		err = l.start(ssh)
		errs.Close()
		if err != nil {
			return fmt.Errorf("connect to %s: %w", m.Name, err)
		}
		gone := make(chan struct{})
		go func() { defer close(gone); _ = ssh.Wait() }()
		if m.opened(ctx, gone) {
			m.ssh = ssh
			return nil
		}
		_ = ssh.Process.Kill()
		<-gone
		if err := m.pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// opened waits until the connection stands, or has failed.
func (m *Machine) opened(ctx context.Context, gone chan struct{}) bool {
	for {
		if _, err := os.Stat(m.Socket()); err == nil { // made last
			return true
		}
		select {
		case <-gone:
			return false
		case <-ctx.Done():
			return false
		case <-m.ended:
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// pause waits a moment while the machine is on.
func (m *Machine) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s did not come up: %w\n%s", m.Name, ctx.Err(), m.lastWords())
	case <-m.ended:
		return fmt.Errorf("%s has ended: %s", m.Name, m.lastWords())
	case <-time.After(d):
		return nil
	}
}

func (m *Machine) lastWords() string {
	var words []string
	for _, name := range []string{m.Console(), filepath.Join(m.dir, "qemu.log"), filepath.Join(m.dir, "ssh.log")} {
		if b, err := os.ReadFile(name); err == nil {
			words = append(words, string(tail(b)))
		}
	}
	return strings.Join(words, "\n")
}

// Run runs a shell script on the machine, as root, and returns what it printed. What it said on its standard error is
// part of the error.
func (m *Machine) Run(ctx context.Context, script string, stdin io.Reader) (string, error) {
	cmd := exec.CommandContext(ctx, "ssh", "-F", "none", "-S", m.control(), "-o", "BatchMode=yes", "root@"+m.Address, script)
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%q on %s: %w: %s", script, m.Name, err, errs.String())
	}
	return out.String(), nil
}

// end cuts the power for good.
func (m *Machine) end() error {
	var errs []error
	for _, cmd := range []*exec.Cmd{m.ssh, m.qemu} {
		if cmd != nil && cmd.Process != nil {
			if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				errs = append(errs, err)
			}
		}
	}
	if m.ended != nil {
		<-m.ended
	}
	return errors.Join(errs...)
}
