package engine

import (
	"slices"
	"testing"
)

func TestCPUFlags(t *testing.T) {
	x86 := "processor\t: 0\nflags\t\t: fpu sse2 avx2\nbugs\t\t: spectre_v1\n\nprocessor\t: 1\nflags\t\t: fpu\n"
	if got := cpuFlags(x86); !slices.Equal(got, []string{"fpu", "sse2", "avx2"}) {
		t.Errorf("x86 has %v", got)
	}
	if got := cpuFlags("processor\t: 0\nFeatures\t: fp asimd\n"); !slices.Equal(got, []string{"fp", "asimd"}) {
		t.Errorf("ARM has %v", got)
	}
}

func TestHierarchies(t *testing.T) {
	hybrid := "4:cpuacct,cpu:/a\n1:name=systemd:/b\n0::/c\n"
	if got := hierarchies(hybrid); !slices.Equal(got, []string{"", "cpu,cpuacct", "name=systemd"}) {
		t.Errorf("a hybrid host has %q", got)
	}
	if got := hierarchies("0::/\n"); !slices.Equal(got, []string{""}) {
		t.Errorf("a host of version 2 has %q", got)
	}
}
