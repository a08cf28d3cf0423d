package criu

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"time"
)

// parasite is the name of the memory in which CRIU runs code inside a process that it dumps.
const parasite = "/memfd:CRIUMFD"

// hurt says whether a dump that was cut off has ended or infected one of the processes that there were before. What can
// be mended is mended.
func (c *Criu) hurt(before []int, pids func() ([]int, error)) bool {
	now, err := pids()
	if err != nil || c.Infected(now) {
		return true
	}
	mend(now)
	return slices.ContainsFunc(before, func(pid int) bool { return !slices.Contains(now, pid) })
}

// aftermath is how long a process may take to die of what a killed CRIU has left in its registers.
const aftermath = 500 * time.Millisecond

// hurtSoon watches for a while: CRIU thaws what it dumps, so a process that it was inside of runs into its end.
func (c *Criu) hurtSoon(before []int, pids func() ([]int, error)) bool {
	for end := time.Now().Add(aftermath); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c.hurt(before, pids) {
			return true
		}
	}
	return false
}

// Infected implements runtime.Checkpointer.
func (*Criu) Infected(pids []int) bool {
	for _, pid := range pids {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if err == nil && bytes.Contains(maps, []byte(parasite)) {
			return true
		}
	}
	return false
}
