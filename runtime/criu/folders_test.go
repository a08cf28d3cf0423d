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

func TestLimitsInsideMove(t *testing.T) {
	from, to, images := host(t), host(t), t.TempDir()
	unit := filepath.Join(from.Freezer, "system.slice/a.service")
	if err := os.MkdirAll(unit, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, v := range map[string]string{"memory.max": "33554432\n", "pids.max": "20\n", "cpu.max": "max 100000\n", "../cgroup.subtree_control": "memory pids\n"} {
		if err := os.WriteFile(filepath.Join(unit, file), []byte(v), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := dumpFolders(from, images); err != nil {
		t.Fatal(err)
	}
	if err := restoreFolders(to, images); err != nil {
		t.Fatal(err)
	}
	// Here files are made when they are written to; those of a real cgroup are there, and the defaults in them.
	for file, want := range map[string]string{
		"a.service/memory.max": "33554432", "a.service/pids.max": "20", "a.service/cpu.max": "", "cgroup.subtree_control": "+memory +pids",
	} {
		if got, _ := readSetting(filepath.Join(to.Freezer, "system.slice"), file); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
}

func TestForeignCgroupsAreRefused(t *testing.T) {
	many := make([]folder, maxFolders+2)
	for i := range many {
		many[i].Name = fmt.Sprint(i)
	}
	for name, list := range map[string]any{
		"above": []folder{{Name: "../102"}}, "absolute": []folder{{Name: "/tmp/x"}}, "hidden": []folder{{Name: "a/../../b"}},
		"through a link": []folder{{Name: "link/x"}}, "many": many, "no list": "text",
		"no limit":   []folder{{Name: "a", Limits: map[string]string{"cgroup.freeze": "0"}}},
		"elsewhere":  []folder{{Name: "a", Limits: map[string]string{"../../x": "0"}}},
		"of the top": []folder{{Name: ".", Limits: map[string]string{"memory.max": "max"}}},
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
