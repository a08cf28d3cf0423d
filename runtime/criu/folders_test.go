package criu

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vzcluster/vzcluster/runtime"
)

// host is a folder that looks like a hierarchy of cgroup v2, with one container's cgroup in it.
func host(t *testing.T) runtime.Checkpoint {
	t.Helper()
	top := t.TempDir()
	ct := runtime.Checkpoint{Cgroup: "/vz/101", Freezer: filepath.Join(top, "vz/101")}
	if err := os.MkdirAll(ct.Freezer, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(top, "cgroup.controllers"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return ct
}

func TestEmptyCgroupsMove(t *testing.T) {
	from, to, images := host(t), host(t), t.TempDir()
	want := []string{"init.scope", "system.slice/a.service/sub", "user.slice"}
	for _, name := range want {
		if err := os.MkdirAll(filepath.Join(from.Freezer, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(to.Freezer, "user.slice"), 0o755); err != nil { // there already: no harm
		t.Fatal(err)
	}
	if err := dumpFolders(from, images); err != nil {
		t.Fatal(err)
	}
	if err := restoreFolders(to, images); err != nil {
		t.Fatal(err)
	}
	for _, name := range want {
		if st, err := os.Stat(filepath.Join(to.Freezer, name)); err != nil || !st.IsDir() {
			t.Errorf("%s was not made: %v", name, err)
		}
	}
}

func TestForeignCgroupsAreRefused(t *testing.T) {
	many := make([]string, maxFolders+1)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for name, list := range map[string]any{
		"above": []string{"../102"}, "absolute": []string{"/tmp/x"}, "hidden": []string{"a/../../b"}, "through a link": []string{"link/x"},
		"many": many, "no list": "text",
	} {
		t.Run(name, func(t *testing.T) {
			ct, images, elsewhere := host(t), t.TempDir(), t.TempDir()
			if err := os.Symlink(elsewhere, filepath.Join(ct.Freezer, "link")); err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(list)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(images, foldersImage), b, 0o600); err != nil {
				t.Fatal(err)
			}
			if restoreFolders(ct, images) == nil {
				t.Error("it was taken")
			}
			for _, dir := range []string{elsewhere, filepath.Dir(ct.Freezer)} {
				if now, _ := os.ReadDir(dir); len(now) > 1 {
					t.Errorf("something was made in %s: %v", dir, now)
				}
			}
		})
	}
}

func TestNoCgroupsToMakeOnV1(t *testing.T) {
	ct, images := host(t), t.TempDir()
	if err := os.Remove(filepath.Join(filepath.Dir(filepath.Dir(ct.Freezer)), "cgroup.controllers")); err != nil {
		t.Fatal(err)
	}
	if err := dumpFolders(ct, images); err != nil {
		t.Fatal(err)
	}
	if err := restoreFolders(ct, images); err != nil {
		t.Error(err)
	}
	if list, _ := os.ReadDir(images); len(list) != 0 {
		t.Errorf("there is %v", list)
	}
}
