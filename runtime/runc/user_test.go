package runc

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestLookUp(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34::/var/www:/bin/sh\nbroken:x:nine:1::/:/bin/sh\n",
		"etc/group":  "root:x:0:\nweb:x:34:\nlogs:x:4:root,www\nadm:x:40:www\n",
	} {
		if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for who, want := range map[string]user{
		"www":      {33, 34, "/var/www", []string{"4", "40"}},
		"33":       {33, 34, "/var/www", []string{"4", "40"}},
		"www:logs": {33, 4, "/var/www", nil},
		"www:7":    {33, 7, "/var/www", nil},
		"1000":     {1000, 1000, "/", nil},
		"1000:5":   {1000, 5, "/", nil},
		"root":     {0, 0, "/root", []string{"4"}},
	} {
		if got, err := lookUp(root, who); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %+v, %v, want %+v", who, got, err, want)
		}
	}
	for _, who := range []string{"nobody", "www:nogroup", "broken", "", "-1"} {
		if got, err := lookUp(root, who); err == nil {
			t.Errorf("%q is %+v", who, got)
		}
	}
	// The container's files may be links: they stay inside.
	if err := os.Remove(filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if got, err := lookUp(root, "root"); err == nil {
		t.Errorf("the host's list was read: %+v", got)
	}
}
