package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestWhichLabsThereAre(t *testing.T) {
	dir, name := t.TempDir(), "names-test"
	if there, err := Exists(dir, name); there || err != nil {
		t.Errorf("an absent lab is there: %v, %v", there, err)
	}
	self, err := procOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for lab, lan := range map[string]proc{name: self, "crashed": {self.PID, self.Start + 1}} {
		if err := os.Mkdir(filepath.Join(dir, lab), 0o700); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf(`{"name":%q,"lan":{"pid":%d,"start":%d}}`, lab, lan.PID, lan.Start)
		if err := os.WriteFile(filepath.Join(dir, lab, "lab.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if there, err := Exists(dir, "crashed"); !there || err != nil {
		t.Errorf("a broken lab is not there: %v, %v", there, err)
	}
	if up := List(dir); !slices.Equal(up, []string{name}) {
		t.Errorf("up are %v, want %s alone", up, name)
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{"lab": true, "a-1": true, "": false, "../x": false, "A": false, "-a": false} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
}
