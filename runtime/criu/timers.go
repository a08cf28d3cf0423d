package criu

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// CRIU restores a timer as the kernel shows it, in three cases as another one than it was: one that repeats and has
// fired shows no time left and would never fire again; one that was set to a moment, and has fired, would fire again at
// once; and one that was set to a moment and has not would fire too early by as much as a second. What the source's kernel
// knows of them is noted before the dump. Before the restore the image is mended, and those that were set to a moment of
// the wall clock are set again at its end.

// timersImage is a file of ours among CRIU's.
const timersImage = "vz-timers.img"

// What a container may have of them; those beyond are late by the length of the move.
const (
	maxTimers     = 1 << 16
	maxTimersSize = 16 << 20 // bytes of the image
)

// moment is a timer that was set to a moment of the wall clock.
type moment struct {
	PID, FD    int // inside
	Flags      int
	Due, Every int64 // nanoseconds; of the wall clock
	Ticks      uint64
}

// noteTimers has the kernel bring up to date what timers have fired, so that CRIU sees how often and when the next time
// is, and writes timersImage. The processes are frozen.
func noteTimers(pids []int, images string) error {
	var all []moment
	for _, pid := range pids {
		all = append(all, processTimers(pid)...)
	}
	if len(all) == 0 {
		return nil
	}
	b, err := json.Marshal(all[:min(len(all), maxTimers)])
	if err == nil {
		err = os.WriteFile(filepath.Join(images, timersImage), b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("note the container's timers: %w", err)
	}
	return nil
}

// processTimers brings a process's timers up to date and returns those that are set to a moment of the wall clock.
func processTimers(pid int) (out []moment) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, _ := os.ReadDir(dir)
	process := -1
	for _, f := range fds {
		if target, err := os.Readlink(filepath.Join(dir, f.Name())); err != nil || target != timerLink {
			continue
		}
		if process < 0 {
			var err error
			if process, err = unix.PidfdOpen(pid, 0); err != nil {
				return out // it has ended
			}
			defer unix.Close(process)
		}
		n, _ := strconv.Atoi(f.Name())
		if m, ok := updated(process, n); ok {
			m.PID = insidePID(pid)
			out = append(out, m)
		}
	}
	return out
}

// timerLink is what the descriptor of a timer points to.
const timerLink = "anon_inode:[timerfd]"

// updated reads a timer, at which the kernel winds it up again if it repeats and has fired. It says whether the timer runs
// towards a moment of the wall clock.
func updated(process, n int) (m moment, ok bool) {
	fd, err := unix.PidfdGetfd(process, n, 0)
	if err != nil {
		return m, false
	}
	defer unix.Close(fd)
	info := fmt.Sprintf("/proc/self/fdinfo/%d", fd)
	var t unix.ItimerSpec
	for range 10 { // until nothing fires in between and nobody takes our time
		before := time.Now().UnixNano()
		if unix.TimerfdGettime(fd, &t) != nil {
			return m, false
		}
		now := time.Now().UnixNano()
		m = moment{FD: n, Flags: number(info, "settime flags:"), Due: now + t.Value.Nano(), Every: t.Interval.Nano(), Ticks: uint64(number(info, "ticks:"))}
		if late := time.Now().UnixNano(); late < m.Due && now-before < int64(time.Millisecond) {
			break
		}
	}
	return m, t.Value.Nano() > 0 && m.Flags&unix.TFD_TIMER_ABSTIME != 0 && wall(number(info, "clockid:"))
}

// wall says whether a clock is one that people set.
func wall(clock int) bool { return clock == unix.CLOCK_REALTIME || clock == unix.CLOCK_REALTIME_ALARM }

// insidePID is a process's number in its own pid namespace, 0 if it has ended.
func insidePID(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(v)
			n, _ := strconv.Atoi(f[len(f)-1])
			return n
		}
	}
	return 0
}

// setTimers sets the timers that noteTimers has noted in restored processes that do not run yet. One that is not there
// as it was has what was left of it.
func setTimers(pids []int, images string) error {
	var all []moment
	found, err := readNote(filepath.Join(images, timersImage), maxTimersSize, &all)
	if err != nil {
		return fmt.Errorf("read the container's timers: %w", err)
	}
	if !found {
		return nil
	}
	of := map[int][]moment{}
	for _, m := range all {
		of[m.PID] = append(of[m.PID], m)
	}
	for _, pid := range pids {
		timers := of[insidePID(pid)]
		if len(timers) == 0 {
			continue
		}
		process, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return fmt.Errorf("set the timers of process %d: %w", pid, err)
		}
		for _, m := range timers {
			m.set(process)
		}
		unix.Close(process)
	}
	return nil
}

// set sets a process's timer to its moment. What comes from another host is only done to such a timer.
func (m moment) set(process int) {
	fd, err := unix.PidfdGetfd(process, m.FD, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil || target != timerLink || !wall(number(fmt.Sprintf("/proc/self/fdinfo/%d", fd), "clockid:")) {
		return
	}
	if late := time.Now().UnixNano() - m.Due; late >= 0 && m.Every > 0 { // what it has missed
		missed := late/m.Every + 1
		m.Due, m.Ticks = m.Due+missed*m.Every, m.Ticks+uint64(missed)
	}
	t := unix.ItimerSpec{Value: unix.NsecToTimespec(max(m.Due, 1)), Interval: unix.NsecToTimespec(max(m.Every, 0))}
	if unix.TimerfdSettime(fd, m.Flags|unix.TFD_TIMER_ABSTIME, &t, nil) == nil && m.Ticks > 0 {
		const setTicks = 0x40085400 // TFD_IOC_SET_TICKS
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), setTicks, uintptr(unsafe.Pointer(&m.Ticks)))
	}
}

// timer is one in CRIU's image, by the names that it has there.
type timer struct{ ticks, flags, vsec, vnsec, isec, insec uint64 }

// mend makes a timer one that CRIU restores as it was. It says whether there was something to do.
func (t *timer) mend() bool {
	before := *t
	if t.vsec == 0 && t.vnsec == 0 && t.ticks > 0 { // it has fired since it was brought up to date
		t.vsec, t.vnsec = t.isec, t.insec
	}
	t.flags &^= unix.TFD_TIMER_ABSTIME // what is left of it is right by itself
	return *t != before
}
