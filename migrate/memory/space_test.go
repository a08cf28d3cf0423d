package memory

import "testing"

func TestSpaces(t *testing.T) {
	for s, want := range map[Space]bool{
		0: false, ProcessSpace(0): false, ProcessSpace(1): true, ProcessSpace(maxPID): true, ProcessSpace(maxPID + 1): false,
		SharedSpace(0): true, SharedSpace(1 << 40): true, 7 << 8: false,
	} {
		if s.valid() != want {
			t.Errorf("space %#x is valid: %v", uint64(s), !want)
		}
	}
}
