package criu

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/crit"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pipe"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/timerfd"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

const absolute = unix.TFD_TIMER_ABSTIME

func entry(clock, flags uint32, ticks uint64, left, interval time.Duration) *timerfd.TimerfdEntry {
	return &timerfd.TimerfdEntry{
		Id: proto.Uint32(7), Flags: proto.Uint32(0o4002), Fown: &fown.FownEntry{Uid: proto.Uint32(0), Euid: proto.Uint32(0), Signum: proto.Uint32(0), PidType: proto.Uint32(0), Pid: proto.Uint32(0)},
		Clockid: proto.Uint32(clock), Ticks: proto.Uint64(ticks), SettimeFlags: proto.Uint32(flags),
		Vsec: proto.Uint64(uint64(left / time.Second)), Vnsec: proto.Uint64(uint64(left % time.Second)),
		Isec: proto.Uint64(uint64(interval / time.Second)), Insec: proto.Uint64(uint64(interval % time.Second)),
	}
}

// filesWith writes the image of a pipe and timers.
func filesWith(t *testing.T, images string, timers ...*timerfd.TimerfdEntry) {
	t.Helper()
	entries := []*fdinfo.FileEntry{{
		Type: fdinfo.FdTypes_PIPE.Enum(), Id: proto.Uint32(1),
		Pipe: &pipe.PipeEntry{Id: proto.Uint32(1), PipeId: proto.Uint32(3), Flags: proto.Uint32(0), Fown: entry(0, 0, 0, 0, 0).GetFown()},
	}}
	for _, e := range timers {
		entries = append(entries, &fdinfo.FileEntry{Type: fdinfo.FdTypes_TIMERFD.Enum(), Id: proto.Uint32(7), Tfd: e})
	}
	b := binary.LittleEndian.AppendUint32(nil, commonMagic)
	b = binary.LittleEndian.AppendUint32(b, filesMagic)
	for _, e := range entries {
		m, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(m))), m...)
	}
	if err := os.WriteFile(filepath.Join(images, filesImage), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// timersOf reads an image as CRIU would.
func timersOf(t *testing.T, images string) (out []*timerfd.TimerfdEntry) {
	t.Helper()
	f, err := os.Open(filepath.Join(images, filesImage))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := crit.New(f, nil, "", false, false).Decode(&fdinfo.FileEntry{})
	if err != nil {
		t.Fatal(err)
	}
	if p := got.Entries[0].Message.(*fdinfo.FileEntry).GetPipe(); p.GetPipeId() != 3 {
		t.Errorf("the pipe is now %v", p)
	}
	for _, e := range got.Entries[1:] {
		out = append(out, e.Message.(*fdinfo.FileEntry).GetTfd())
	}
	return out
}

func TestTimersAreMended(t *testing.T) {
	const ms, minute = time.Millisecond, time.Minute
	for _, tt := range []struct {
		name     string
		in, want *timerfd.TimerfdEntry
	}{
		{"what needs nothing stays", entry(unix.CLOCK_MONOTONIC, 0, 2, 3*time.Second, minute), entry(unix.CLOCK_MONOTONIC, 0, 2, 3*time.Second, minute)},
		{"one that repeats and has fired goes on", entry(unix.CLOCK_MONOTONIC, 0, 4, 0, 50*ms), entry(unix.CLOCK_MONOTONIC, 0, 4, 50*ms, 50*ms)},
		{"one that was switched off stays off", entry(unix.CLOCK_MONOTONIC, 0, 0, 0, 50*ms), entry(unix.CLOCK_MONOTONIC, 0, 0, 0, 50*ms)},
		{"one for a moment that has fired does not again", entry(unix.CLOCK_REALTIME, absolute, 0, 0, 0), entry(unix.CLOCK_REALTIME, 0, 0, 0, 0)},
		{"the same, not read", entry(unix.CLOCK_BOOTTIME, absolute, 1, 0, 0), entry(unix.CLOCK_BOOTTIME, 0, 1, 0, 0)},
		{"one for a moment has what is left", entry(unix.CLOCK_MONOTONIC, absolute, 0, 2500*ms, minute), entry(unix.CLOCK_MONOTONIC, 0, 0, 2500*ms, minute)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			images := t.TempDir()
			filesWith(t, images, tt.in)
			for range 2 { // a restore may be tried twice
				if err := mendFiles(images); err != nil {
					t.Fatal(err)
				}
				if got := timersOf(t, images)[0]; !proto.Equal(got, tt.want) {
					t.Errorf("it is now %v, not %v", got, tt.want)
				}
			}
		})
	}
}

func TestForeignFilesAreRefused(t *testing.T) {
	images := t.TempDir()
	filesWith(t, images, entry(0, 0, 1, 0, 1))
	good, err := os.ReadFile(filepath.Join(images, filesImage))
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, _, err := withTimers(good[:n]); err == nil && n != filesHead && !boundary(good, n) {
			t.Errorf("%d of %d bytes are taken for an image", n, len(good))
		}
	}
	if _, _, err := withTimers(append([]byte{1}, good...)); err == nil {
		t.Error("a foreign head is taken for CRIU's")
	}
}

// boundary says whether a message ends there.
func boundary(image []byte, n int) bool {
	at := filesHead
	for at < n {
		at += 4 + int(binary.LittleEndian.Uint32(image[at:]))
	}
	return at == n
}

// A timer that has fired and repeats is wound up again, and only those of the wall clock are noted.
func TestTimersAreNoted(t *testing.T) {
	make := func(clock, flags int, in time.Duration, every time.Duration) int {
		fd, err := unix.TimerfdCreate(clock, unix.TFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		at := unix.NsecToTimespec(int64(in))
		if flags&absolute != 0 {
			at = unix.NsecToTimespec(time.Now().Add(in).UnixNano())
		}
		if err := unix.TimerfdSettime(fd, flags, &unix.ItimerSpec{Value: at, Interval: unix.NsecToTimespec(int64(every))}, nil); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	fired := make(unix.CLOCK_MONOTONIC, 0, 1, time.Hour)
	hour := make(unix.CLOCK_REALTIME, absolute, time.Hour, 0)
	minute := make(unix.CLOCK_REALTIME, 0, time.Minute, 0)
	p := []unix.PollFd{{Fd: int32(fired), Events: unix.POLLIN}}
	if n, err := unix.Poll(p, 5000); n != 1 || err != nil {
		t.Fatalf("the timer did not fire: %v", err)
	}
	images := t.TempDir()
	if err := noteTimers([]int{os.Getpid()}, images); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(images, timersImage))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), fmt.Sprintf(`"FD":%d,`, hour)) || strings.Count(string(b), `"FD":`) != 1 {
		t.Errorf("noted are %s", b)
	}
	file := fmt.Sprintf("/proc/self/fdinfo/%d", fired)
	if info, _ := os.ReadFile(file); number(file, "ticks:") != 1 || strings.Contains(string(info), "it_value: (0, 0)") {
		t.Errorf("the timer that fired is now %s", info)
	}
	// It is restored with less than was left of it, or more.
	due := time.Now().Add(time.Hour)
	if err := unix.TimerfdSettime(hour, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(time.Minute))}, nil); err != nil {
		t.Fatal(err)
	}
	if err := setTimers([]int{os.Getpid()}, images); err != nil {
		t.Fatal(err)
	}
	var got unix.ItimerSpec
	if err := unix.TimerfdGettime(hour, &got); err != nil {
		t.Fatal(err)
	}
	if off := time.Until(due) - time.Duration(got.Value.Nano()); off.Abs() > 10*time.Second || number(fmt.Sprintf("/proc/self/fdinfo/%d", hour), "settime flags:") != absolute {
		t.Errorf("it is off by %s", off)
	}
	if err := unix.TimerfdGettime(minute, &got); err != nil || got.Value.Nano() > int64(time.Minute) {
		t.Errorf("another timer was changed: %v, %v", got, err)
	}
}
