package vm

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

// clocks is what testdata/clocks tells.
type clocks struct {
	Start    float64            `json:"start"`
	Now      float64            `json:"now"`
	Back     map[string]float64 `json:"back"`
	Forward  map[string]float64 `json:"forward"`
	Ticks    uint64             `json:"ticks"`
	Fired    map[string]int     `json:"fired"`
	FiredAt  map[string]float64 `json:"fired_at"`
	BootDiff float64            `json:"boot_diff"`
}

func (k *kit) clocks(c api.Container) (v clocks, err error) {
	conn, err := k.lab.Dial(k.t.Context(), address(c)+":9000")
	if err != nil {
		return v, err
	}
	defer conn.Close()
	return v, json.NewDecoder(conn).Decode(&v)
}

// The kernels were booted at different times, and one wall clock is 20 minutes ahead: a program that measures time does
// not notice, and what it waits for comes once, when its own clock says so.
func TestClocksDoNotJump(t *testing.T) {
	longOnly(t)
	k := sharedLab(t)
	const wait = 120 // longer than the moves below take, or the timers prove nothing
	c := k.run("clocks", "busybox")
	k.put("clocks", shared.clocks, ":9000 "+strconv.Itoa(wait))
	var before clocks
	k.until("it answers", func() (err error) {
		before, err = k.clocks(c)
		return err
	})
	for range 2 {
		blackout := k.migrate("clocks").BlackoutMS / 1000
		now, err := k.clocks(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, clock := range []string{"monotonic", "boottime"} {
			if now.Back[clock] > 0 {
				t.Errorf("after the move %s has gone back by %.3f s", clock, now.Back[clock])
			}
			// Frozen time may count or not, but no other kernel's may. The rest is an emulator's hiccups.
			if step := now.Forward[clock]; step > blackout+15 {
				t.Errorf("after a blackout of %.1f s %s has made a step of %.1f s", blackout, clock, step)
			}
		}
		if d := now.BootDiff - before.BootDiff; d < -1 || d > 1 {
			t.Errorf("boottime was %.3f s ahead of monotonic and is %.3f s", before.BootDiff, now.BootDiff)
		}
	}
	var after clocks
	k.until("the timers have fired", func() (err error) {
		if after, err = k.clocks(c); err == nil && (len(after.Fired) < 3 || after.Now-after.Start < wait+10) {
			err = fmt.Errorf("after %.0f s: %v", after.Now-after.Start, after.Fired)
		}
		return err
	})
	for name, n := range after.Fired {
		if at := after.FiredAt[name] - after.Start; n != 1 || at < wait-1 {
			t.Errorf("%s has fired %d times, the last time after %.1f s of %d", name, n, at, wait)
		}
	}
	if elapsed := after.Now - after.Start; float64(after.Ticks) > elapsed+1 || float64(after.Ticks) < elapsed/2 {
		t.Errorf("in %.0f s a timer of one second has expired %d times", elapsed, after.Ticks)
	}
}

func TestSystemdTimersFireOnce(t *testing.T) {
	longOnly(t)
	k := sharedLab(t)
	k.run("timers", debian, "--ram", "256M")
	k.isRunning("timers")
	uptime := func() float64 {
		s, _, _ := strings.Cut(k.inside("timers", "cat /proc/uptime"), " ")
		up, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		return up
	}
	// Of three timers two end while it moves back and forth, or soon after; the last is for later.
	for _, s := range []string{"20", "90", "3000"} {
		k.inside("timers", "systemd-run --quiet --on-active="+s+" --timer-property=AccuracySec=100ms sh -c 'echo "+s+" >> /root/fired'")
	}
	begun := uptime()
	for range 2 {
		was := uptime()
		k.migrate("timers")
		if now := uptime(); now < was {
			t.Errorf("its uptime was %.1f s and is %.1f s", was, now)
		}
	}
	k.until("the timers fire", func() error {
		if got := k.inside("timers", "cat /root/fired 2>/dev/null || true"); len(strings.Fields(got)) < 2 || uptime()-begun < 100 {
			return fmt.Errorf("after %.0f s: %q", uptime()-begun, got)
		}
		return nil
	})
	if got := k.inside("timers", "cat /root/fired"); got != "20\n90" {
		t.Errorf("these have fired: %q", got)
	}
}
