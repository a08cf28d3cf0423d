package main

import (
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Timers stand still while the container does, as does the clock that programs measure time with; those that are set by the
// wall clock do not. None may be lost, fire twice or fire early.

const (
	period = 50 * time.Millisecond // of timers that repeat
	moment = 3 * time.Second       // of those that do not: some are moved while they run
)

func timerfd(clock, flags int, value, interval time.Duration) (fd int, set func()) {
	fd = must(unix.TimerfdCreate(clock, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK))
	set = func() {
		at := unix.NsecToTimespec(int64(value))
		if flags&unix.TFD_TIMER_ABSTIME != 0 {
			ok(unix.ClockGettime(int32(clock), &at))
			at = unix.NsecToTimespec(at.Nano() + int64(value))
		}
		ok(unix.TimerfdSettime(fd, flags, &unix.ItimerSpec{Value: at, Interval: unix.NsecToTimespec(int64(interval))}, nil))
	}
	set()
	return fd, set
}

// now is the time by which a timer goes: without the monotonic clock it is the wall clock's.
func now(clock int) time.Time {
	if clock == unix.CLOCK_REALTIME {
		return time.Now().Round(0)
	}
	return time.Now()
}

// fires waits for a timerfd and returns how often it has fired.
func fires(fd int) int {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if n, err := unix.Poll(p, 100); n == 1 && err == nil {
			break
		}
	}
	n, err := read(fd)
	if err != nil {
		panic(fmt.Sprintf("it does not fire: %v", err))
	}
	return int(n)
}

// timerfdPeriodic goes on, and never fires more often than there was time for.
func timerfdPeriodic(clock, flags int) func() func() {
	return func() func() {
		start := now(clock)
		fd, _ := timerfd(clock, flags, period, period)
		fired := 0
		return func() {
			fired += fires(fd)
			fired += fires(fd) // what it had fired when it was moved is not all
			if most := int(time.Since(start) / period); fired > most {
				panic(fmt.Sprintf("it has fired %d times when there was time for %d", fired, most))
			}
		}
	}
}

// timerfdOnce fires once, not before its time, and not again.
func timerfdOnce(clock, flags int) func() func() {
	return func() func() {
		fd, set := timerfd(clock, flags, moment, 0)
		running, due := true, now(clock).Add(moment)
		return func() {
			if !running { // every other check finds one that has fired and was read
				_, err := read(fd)
				expect("it was read", err, error(unix.EAGAIN))
				set()
				running, due = true, now(clock).Add(moment)
				return
			}
			expect("it fires", fires(fd), 1)
			if early := time.Until(due); early > 10*time.Millisecond {
				panic(fmt.Sprintf("it has fired %s too early", early))
			}
			running = false
		}
	}
}

// timerfdYear is set to a moment of the wall clock.
func timerfdYear() func() {
	const year = 365 * 24 * time.Hour
	fd, _ := timerfd(unix.CLOCK_REALTIME, unix.TFD_TIMER_ABSTIME, year, 0)
	end := time.Now().Add(year).Round(0)
	return func() {
		var left unix.ItimerSpec
		ok(unix.TimerfdGettime(fd, &left))
		if late := time.Duration(left.Value.Nano()) - time.Until(end); late.Abs() > 500*time.Millisecond {
			panic(fmt.Sprintf("it is %s late", late))
		}
	}
}

// signals counts what arrives of a signal, which is not one that Go uses.
func signals(s unix.Signal) *atomic.Int64 {
	n, c := new(atomic.Int64), make(chan os.Signal, 64)
	signal.Notify(c, s)
	go func() {
		for range c {
			n.Add(1)
		}
	}()
	return n
}

// reaches waits until a signal has come so often.
func reaches(n *atomic.Int64, want int64) {
	for end := time.Now().Add(patience); n.Load() < want && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if got := n.Load(); got < want {
		panic(fmt.Sprintf("it has fired %d times, not %d", got, want))
	}
}

// intervalTimer is setitimer's, which repeats. The signal is SIGALRM.
func intervalTimer() func() {
	n := signals(unix.SIGALRM)
	must(unix.Setitimer(unix.ItimerReal, unix.Itimerval{Interval: unix.NsecToTimeval(int64(period)), Value: unix.NsecToTimeval(int64(period))}))
	return func() { reaches(n, n.Load()+2) }
}

// posixTimer is timer_create's; it repeats, or fires once per check.
func posixTimer(s unix.Signal, repeats bool) func() func() {
	return func() func() {
		n, id := signals(s), int32(0)
		event := struct {
			value          uintptr
			signal, notify int32
			rest           [48]byte
		}{signal: int32(s)}
		ipc(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&id)))
		set := func(value, interval time.Duration) {
			t := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(value)), Interval: unix.NsecToTimespec(int64(interval))}
			ipc(unix.SYS_TIMER_SETTIME, uintptr(id), 0, uintptr(unsafe.Pointer(&t)))
		}
		if repeats {
			set(period, period)
			return func() { reaches(n, n.Load()+2) }
		}
		set(moment, 0)
		want := int64(1)
		return func() {
			reaches(n, want)
			expect("times that it has fired", n.Load(), want)
			want++
			set(moment, 0)
		}
	}
}
