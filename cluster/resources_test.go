package cluster

import (
	"errors"
	"strings"
	"testing"
)

func TestFitsAndLacksAgree(t *testing.T) {
	free := Resources{MilliCPU: 1000, RAM: gib, Disk: 10 * gib}
	for _, tc := range []struct {
		need  Resources
		lacks string
	}{
		{Resources{}, ""},
		{free, ""},
		{Resources{MilliCPU: 1001, RAM: 0, Disk: 0}, "cpu: needs 1, 1 free"},
		{Resources{MilliCPU: 1500, RAM: 0, Disk: 0}, "cpu: needs 1.5, 1 free"},
		{Resources{MilliCPU: 0, RAM: gib + 1, Disk: 0}, "memory"},
		{Resources{MilliCPU: 0, RAM: 0, Disk: 11 * gib}, "disk: needs 11G, 10G free"},
		{Resources{MilliCPU: 2000, RAM: 2 * gib, Disk: 11 * gib}, "memory: needs 2G, 1G free"},
	} {
		got := free.Lacks(tc.need)
		if tc.lacks == "" && got != "" || !strings.HasPrefix(got, tc.lacks) {
			t.Errorf("%+v lacks %q, want %q", tc.need, got, tc.lacks)
		}
		if free.Fits(tc.need) != (got == "") {
			t.Errorf("Fits and Lacks disagree on %+v", tc.need)
		}
	}
	if free.Add(free).Sub(free) != free {
		t.Error("Sub is not the opposite of Add")
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 1023: "1023", 1024: "1K", 1536: "1.5K", gib: "1G", -512 * mib: "-512M", 3 << 40: "3T", 5 << 50: "5P",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("%d bytes print as %q, want %q", n, got, want)
		}
	}
}

func TestVotersFor(t *testing.T) {
	for n, want := range map[int]int{0: 0, 1: 1, 2: 1, 3: 3, 6: 3, 7: 5, 100: 5} {
		if got := VotersFor(n); got != want {
			t.Errorf("%d hosts have %d voters, want %d", n, got, want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "web-1", "db.example", strings.Repeat("x", 63), "1a"} {
		if err := CheckName("container", name); err != nil {
			t.Errorf("%q was refused: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "-a", "a-", "a..b", "A", "a_b", "a/b", "ä", "a\nb", "12", strings.Repeat("x", 64)} {
		if err := CheckName("container", name); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q was accepted (error %v)", name, err)
		}
	}
	if err := CheckName("host", "12"); err != nil {
		t.Errorf("a host may have a number as its name: %v", err)
	}
}

func TestSharedReadsAreCopies(t *testing.T) {
	s := must(t, must(t, NewState(), threeHosts()...), create(101, "h1"))
	s.Hosts()[0] = nil
	s.Containers()[0] = nil
	if s.Hosts()[0] == nil || s.Containers()[0] == nil {
		t.Error("a caller can spoil the state's own lists")
	}
	SortHosts(s.Hosts())
}
