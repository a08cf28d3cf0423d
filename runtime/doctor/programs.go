package doctor

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
)

// version is major, minor, patch and release candidate (release when it is none).
type version [4]int

const release = math.MaxInt

func (v version) less(w version) bool { return slices.Compare(v[:], w[:]) < 0 }

// parseVersion finds the first version number in a text.
func parseVersion(s string) (version, bool) {
	m := regexp.MustCompile(`(\d+)\.(\d+)(?:\.(\d+))?(?:-rc\.?(\d+))?`).FindStringSubmatch(s)
	if m == nil {
		return version{}, false
	}
	v := version{3: release}
	for i, digits := range m[1:] {
		if digits == "" {
			continue
		}
		n, err := strconv.Atoi(digits)
		if err != nil {
			return version{}, false
		}
		v[i] = n
	}
	return v, true
}

// broken is the finding for a program that does not run, if it does not.
func broken(name string, p Program, costs string) (Finding, bool) {
	switch {
	case p.Path == "":
		return bad(name, "not found", costs, setup), true
	case p.Error != "":
		return bad(name, p.Path+" does not run: "+p.Error, costs, setup), true
	}
	return Finding{}, false
}

// criu wants a version that can dump TCP sockets on this kernel: from 6.16 on SO_PASSCRED is refused on them, and
// CRIU asks before it dumps since 4.2.
func criu(f Facts) Finding {
	const name, costs = "criu", "live migration"
	if b, is := broken(name, f.CRIU, costs); is {
		return b
	}
	least, why := version{4, 0, 0, release}, ""
	if k, _ := parseVersion(f.Release); !k.less(version{6, 16, 0, 0}) {
		least, why = version{4, 2, 0, release}, " on this kernel, where older ones stop at TCP sockets"
	}
	found := fmt.Sprintf("%s %s", f.CRIU.Path, f.CRIU.Version)
	if v, ok := parseVersion(f.CRIU.Version); !ok || v.less(least) {
		return bad(name, fmt.Sprintf("%s, %d.%d or newer is needed%s", found, least[0], least[1], why), costs, setup)
	}
	return good(name, found)
}

func check(f Facts) Finding {
	const name = "criu check"
	switch {
	case f.CRIU.Path == "" || f.CRIU.Error != "" || !f.Root:
		return warn(name, "not tried", "the certainty that this kernel has what live migration needs", "mend what is above, then: vzcluster doctor")
	case f.Check != "":
		return bad(name, f.Check, "live migration", f.CRIU.Path+" check --all, and boot a kernel that has what it names")
	}
	return good(name, "good")
}

// runc wants the fixes of November 2025 against escapes from containers. What is older than 1.4 but has them was never
// tried here; a restored container's record is written in runc's own format.
func runc(f Facts) Finding {
	const name = "runc"
	if b, is := broken(name, f.Runc, "containers"); is {
		return b
	}
	found := fmt.Sprintf("%s %s", f.Runc.Path, f.Runc.Version)
	v, ok := parseVersion(f.Runc.Version)
	switch {
	case !ok || !fixed(v):
		return bad(name, found+" lacks the fixes for CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881",
			"isolation: a hostile template can write to the host's /proc", setup)
	case v.less(version{1, 4, 0, release}):
		return warn(name, found+", 1.4 or newer is what is tested", "certainty: a container that moved may be unknown to an older runc", setup)
	}
	return good(name, found)
}

func lxcfs(f Facts) Finding {
	if f.LXCFS == "" {
		return warn("lxcfs", "not found", "free, top and uptime inside of containers show the host's figures", setup)
	}
	return good("lxcfs", f.LXCFS)
}

func fixed(v version) bool {
	switch {
	case v[0] == 1 && v[1] == 2:
		return !v.less(version{1, 2, 8, release})
	case v[0] == 1 && v[1] == 3:
		return !v.less(version{1, 3, 3, release})
	}
	return !v.less(version{1, 4, 0, 3})
}

// optional is a program that some commands use.
type optional struct{ name, costs, remedy string }

func optionalPrograms() []optional {
	return []optional{
		{"mmdebstrap", "`template build` of Debian; import works without", setup},
		{"busybox", "`template build busybox`", setup},
		{"ip", "the lab, and a look at a container's network by hand", setup},
		{"nft", "a look at the firewall's rules by hand; the agent does without", setup},
	}
}

func programs(f Facts) []Finding {
	var all []Finding
	for _, p := range optionalPrograms() {
		if slices.Contains(f.Missing, p.name) {
			all = append(all, warn(p.name, "not found", p.costs, p.remedy))
		} else {
			all = append(all, good(p.name, "yes"))
		}
	}
	return all
}
