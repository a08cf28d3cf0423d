package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1": 1, "512M": 512 << 20, "512m": 512 << 20, "2G": 2 << 30, "1.5G": 3 << 29, "1T": 1 << 40, "64K": 64 << 10,
		"1073741824": 1 << 30, "512MB": 512 << 20, "512MiB": 512 << 20, "2GiB": 2 << 30, "100B": 100, ".5K": 512,
	} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"12X", "", "M", "-1G", "1e3", "0x10", "inf", "nan", "1.2.3G", "1 G", "GM", "1i", "+5", "1_0"} {
		if got, err := parseSize(in); err == nil || !strings.HasSuffix(err.Error(), "is not a size, write for example 512M or 2G") {
			t.Errorf("parseSize(%q) = %d, %v; want an error", in, got, err)
		}
	}
	if _, err := parseSize("12X"); err.Error() != "12X is not a size, write for example 512M or 2G" {
		t.Errorf("%v", err)
	}
	if _, err := parseSize("99999999999T"); err == nil || err.Error() != "99999999999T is more than any machine has" {
		t.Errorf("too much: %v", err)
	}
}

func TestParseCPUs(t *testing.T) {
	for in, want := range map[string]int64{"1": 1000, "0.5": 500, ".25": 250, "2.125": 2125, "0": 0, "16": 16000} {
		if got, err := parseCPUs(in); err != nil || got != want {
			t.Errorf("parseCPUs(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "-1", "one", "1e9", "99999999", "1,5"} {
		if got, err := parseCPUs(in); err == nil {
			t.Errorf("parseCPUs(%q) = %d, want an error", in, got)
		}
	}
}

func TestParseIP(t *testing.T) {
	for _, in := range []string{"auto", "none", "10.0.0.7", "10.0.0.7/24", "fd00::7"} {
		if got, err := parseIP(in); err != nil || got != in {
			t.Errorf("parseIP(%q) = %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "10.0.0", "host1", "10.0.0.7/99", "AUTO"} {
		if _, err := parseIP(in); err == nil {
			t.Errorf("parseIP(%q) is taken", in)
		}
	}
}

func TestParseLabels(t *testing.T) {
	got, err := parseLabels([]string{"tier=web", "a=b=c", "gone="})
	if want := map[string]string{"tier": "web", "a": "b=c", "gone": ""}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	for _, in := range []string{"", "tier", "=web"} {
		if _, err := parseLabels([]string{in}); err == nil {
			t.Errorf("parseLabels(%q) is taken", in)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"30": 30 * time.Second, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "0": 0} {
		if got, err := parseDuration(in); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %s, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "-1s", "soon", "1d"} {
		if _, err := parseDuration(in); err == nil {
			t.Errorf("parseDuration(%q) is taken", in)
		}
	}
}

func TestPermute(t *testing.T) {
	for in, want := range map[string]string{
		"ls":                                   "ls --",
		"-o json ls":                           "--output=json ls --",
		"ls -o json":                           "--output=json ls --",
		"ls -ojson":                            "--output=json ls --",
		"ls --output=json -H unix:///x":        "--output=json --host=unix:///x ls --",
		"create 105 --ram 1G":                  "create --ram=1G -- 105",
		"create --ram=1G 105 --name web":       "create --ram=1G --name=web -- 105",
		"create web --host host2 -H unix:///x": "--host=unix:///x create --host=host2 -- web",
		"create -ram 1G":                       "create --ram=1G --",
		"host drain host3 -y --dry-run":        "host drain --yes --dry-run -- host3",
		"rm web -yf":                           "destroy --yes --force -- web",
		"exec -it web sh -c ls":                "exec --interactive --tty -- web sh -c ls",
		"exec web -- sh -o pipefail":           "exec -- web sh -o pipefail",
		"exec web -o json":                     "exec -- web -o json",
		"exec -e A=b=c -eD=e web env -- x":     "exec --env=A=b=c --env=D=e -- web env -- x",
		"exec -t=false web sh":                 "exec --tty=false -- web sh",
		"exec -- web sh":                       "exec -- web sh",
		"show -- -odd":                         "show -- -odd",
		"set web --label a=":                   "set --label=a= -- web",
		"set web --ram -1G":                    "set --ram=-1G -- web",
		"template import x -":                  "template import -- x -",
		"":                                     "",
		"--help":                               "--help",
		"create 105 --help":                    "create --help",
		"help create":                          "create --help",
		"host help drain":                      "host drain --help",
		"host -h":                              "host --help",
	} {
		got, err := permute(testEnv(nil, nil).app(), append([]string{"vzcluster"}, strings.Fields(in)...))
		if err != nil || strings.Join(got[1:], " ") != want {
			t.Errorf("permute(%s)\n  %v %v, want\n  %s", in, got, err, want)
		}
	}
}

func TestPermuteRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"lss":               "there is no command `lss` (did you mean `ls`?); see `vzcluster --help`",
		"frobnicate":        "there is no command `frobnicate`; see `vzcluster --help`",
		"host":              "host needs one of: list, cordon, activate, drain, set, park, wake, leave; see `vzcluster host --help`",
		"host dran x":       "host has no command `dran` (did you mean `drain`?); see `vzcluster host --help`",
		"create --rma 1G":   "create has no flag `--rma` (did you mean `--ram`?); see `vzcluster create --help`",
		"create -ab":        "create has no flag `-ab`; see `vzcluster create --help`",
		"exec -tx web":      "exec has no flag `-x`; see `vzcluster exec --help`",
		"create 105 --ram":  "--ram wants a value; see `vzcluster create --help`",
		"--wide ls":         "there is no flag `--wide`; see `vzcluster --help`",
		"ls --ram 1G":       "ls has no flag `--ram`; see `vzcluster ls --help`",
		"destroy web --yse": "destroy has no flag `--yse` (did you mean `--yes`?); see `vzcluster destroy --help`",
	} {
		_, err := permute(testEnv(nil, nil).app(), append([]string{"vzcluster"}, strings.Fields(in)...))
		if err == nil || err.Error() != want {
			t.Errorf("permute(%s)\n  %v, want\n  %s", in, err, want)
		}
	}
}

func TestSavedPlan(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plan.json")
	if steps, err := savedPlan(""); steps != nil || err != nil {
		t.Errorf("without a file: %v, %v", steps, err)
	}
	if _, err := savedPlan(file); api.CodeOf(err) != api.CodeUsage {
		t.Errorf("a file that is not there: %v", err)
	}
	for body, want := range map[string]int{`{"steps":[{"container":101,"from":"host1","to":"host2"}]}`: 1, `{"steps":[]}`: 0, `no JSON`: 0} {
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		steps, err := savedPlan(file)
		if len(steps) != want || (err == nil) != (want > 0) {
			t.Errorf("%s: %v, %v", body, steps, err)
		}
	}
}
