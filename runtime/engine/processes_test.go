package engine

import (
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/runtime"
)

func TestParseRunning(t *testing.T) {
	stat := "4711 (a) b\x1b) S 1 1 1 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 3 0 1000 1 2"
	got := parseRunning(stat, "Name:\ta\nVmRSS:\t    2048 kB\nNSpid:\t4711\t17\n")
	want := runtime.Running{Inside: 17, State: "S", CPU: 2 * time.Second, Threads: 3, RAM: 2 << 20, Command: "[a) b?]"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, odd := range []string{"", "4711", ")(", "1 (x)"} {
		_ = parseRunning(odd, odd) // does not fall over
	}
}
