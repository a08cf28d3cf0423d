// Command clocks watches the clocks and timers of the kernel it runs on, and tells whoever asks what it saw:
//
//	clocks ADDR SECONDS
//
// It reads CLOCK_MONOTONIC and CLOCK_BOOTTIME all the time, has a periodic timer, and three that end after SECONDS: a
// timerfd, an absolute timerfd and a sleep. Every connection gets one line of JSON.
package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// seen is what it tells. Times are in seconds of CLOCK_MONOTONIC.
type seen struct {
	Start    float64            `json:"start"`
	Now      float64            `json:"now"`
	Back     map[string]float64 `json:"back"`     // clock: how far it has gone back at most
	Forward  map[string]float64 `json:"forward"`  // clock: its largest step
	Ticks    uint64             `json:"ticks"`    // of the periodic timer, one a second
	Fired    map[string]int     `json:"fired"`    // one-shot timer: how often
	FiredAt  map[string]float64 `json:"fired_at"` // when
	BootDiff float64            `json:"boot_diff"`
}

type watcher struct {
	mu   sync.Mutex
	seen seen
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "clocks:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return errors.New("usage: clocks ADDR SECONDS")
	}
	seconds, err := strconv.ParseInt(os.Args[2], 10, 64)
	if err != nil {
		return err
	}
	w := &watcher{seen: seen{
		Start: read(unix.CLOCK_MONOTONIC), Back: map[string]float64{}, Forward: map[string]float64{},
		Fired: map[string]int{}, FiredAt: map[string]float64{},
	}}
	go w.watch("monotonic", unix.CLOCK_MONOTONIC)
	go w.watch("boottime", unix.CLOCK_BOOTTIME)
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return err
	}
	periodic := unix.ItimerSpec{Interval: unix.Timespec{Sec: 1}, Value: unix.Timespec{Sec: 1}}
	relative := unix.ItimerSpec{Value: unix.Timespec{Sec: seconds}}
	absolute := unix.ItimerSpec{Value: unix.Timespec{Sec: now.Sec + seconds, Nsec: now.Nsec}}
	err = errors.Join(
		w.timer(unix.CLOCK_MONOTONIC, 0, periodic, func(n uint64) { w.seen.Ticks += n }),
		w.timer(unix.CLOCK_MONOTONIC, 0, relative, func(n uint64) { w.fired("timerfd", n) }),
		w.timer(unix.CLOCK_BOOTTIME, unix.TFD_TIMER_ABSTIME, absolute, func(n uint64) { w.fired("absolute", n) }),
	)
	if err != nil {
		return err
	}
	go func() {
		rest := unix.Timespec{Sec: seconds}
		for errors.Is(unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &rest, &rest), unix.EINTR) {
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.fired("sleep", 1)
	}()
	return w.serve(os.Args[1])
}

func read(clock int32) float64 {
	var t unix.Timespec
	_ = unix.ClockGettime(clock, &t) // known clocks do not fail
	return float64(t.Sec) + float64(t.Nsec)/1e9
}

// watch reads a clock every few milliseconds.
func (w *watcher) watch(name string, clock int32) {
	for last := read(clock); ; {
		time.Sleep(5 * time.Millisecond)
		now := read(clock)
		w.mu.Lock()
		w.seen.Back[name] = max(w.seen.Back[name], last-now)
		w.seen.Forward[name] = max(w.seen.Forward[name], now-last)
		w.mu.Unlock()
		last = now
	}
}

// fired is called with the lock held.
func (w *watcher) fired(name string, n uint64) {
	w.seen.Fired[name] += int(n)
	w.seen.FiredAt[name] = read(unix.CLOCK_MONOTONIC)
}

// timer makes a timerfd and calls expired, with the lock held, whenever it has expired.
func (w *watcher) timer(clock, flags int, spec unix.ItimerSpec, expired func(n uint64)) error {
	fd, err := unix.TimerfdCreate(clock, unix.TFD_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.TimerfdSettime(fd, flags, &spec, nil); err != nil {
		return err
	}
	go func() {
		var b [8]byte
		for {
			if n, err := unix.Read(fd, b[:]); err != nil || n != len(b) {
				continue // interrupted
			}
			w.mu.Lock()
			expired(binary.NativeEndian.Uint64(b[:]))
			w.mu.Unlock()
		}
	}()
	return nil
}

func (w *watcher) serve(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		w.mu.Lock()
		w.seen.Now = read(unix.CLOCK_MONOTONIC)
		w.seen.BootDiff = read(unix.CLOCK_BOOTTIME) - w.seen.Now
		err = json.NewEncoder(conn).Encode(w.seen)
		w.mu.Unlock()
		if err := errors.Join(err, conn.Close()); err != nil {
			fmt.Fprintln(os.Stderr, "clocks:", err)
		}
	}
}
