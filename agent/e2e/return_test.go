package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

// A container that comes back brings only what changed since it left; all of its files are what they were.
func TestQuickReturn(t *testing.T) {
	k := sharedLab(t)
	c := k.run("boomerang", "busybox", "--ram", "128M")
	k.inside("boomerang", `mkdir /data && cd /data && for i in $(seq 100); do dd if=/dev/urandom of=f$i bs=64k count=2 2>/dev/null; done
dd if=/dev/urandom of=big bs=1M count=16 2>/dev/null; ln f1 linked; ln -s f2 soft; mkfifo pipe; sync`)
	there := k.other(c.Host)
	first := k.migrate("boomerang", there)
	if !k.keeps(c.Host, c.ID) {
		t.Errorf("%s does not say that it keeps the layer", c.Host)
	}
	k.inside("boomerang", "cd /data && echo changed >f7 && rm f8 && dd if=/dev/urandom of=big bs=64k seek=30 count=1 conv=notrunc 2>/dev/null")
	sum := "cd /data && ls -l && cat f* big linked soft | sha256sum"
	before := k.inside("boomerang", sum)
	back := k.migrate("boomerang", c.Host)
	if after := k.inside("boomerang", sum); after != before {
		t.Errorf("the files were\n%s\nand are\n%s", before, after)
	}
	t.Logf("%d bytes there, %d bytes back", first.Bytes, back.Bytes)
	if first.Bytes < 25<<20 || back.Bytes > first.Bytes*15/100 {
		t.Errorf("going took %d bytes, coming back %d", first.Bytes, back.Bytes)
	}
	if k.keeps(c.Host, c.ID) {
		t.Errorf("%s still says that it keeps the layer", c.Host)
	}
}

// The memory of a container that comes back crosses the wire only as far as it has changed.
func TestMemoryComesBack(t *testing.T) {
	k := sharedLab(t)
	c := k.run("remember", "busybox", "--ram", "256M")
	k.serve(c, "hold :"+port+" 64")
	sum := func() string {
		out, code := k.on("outside", fmt.Sprintf("echo | timeout 10 busybox nc -w 5 %s %s", address(c), port))
		if code != 0 || !strings.HasPrefix(out, ":") {
			t.Fatalf("asked for its checksum it says %q", out)
		}
		return out
	}
	before := sum()
	first := k.migrate("remember", k.other(c.Host))
	back := k.migrate("remember", c.Host)
	again := k.migrate("remember", first.To)
	t.Logf("%d bytes there, %d back, %d there again", first.Bytes, back.Bytes, again.Bytes)
	if first.Bytes < 64<<20 || back.Bytes > first.Bytes*15/100 || again.Bytes > first.Bytes*15/100 {
		t.Errorf("going took %d bytes, coming back %d, going again %d", first.Bytes, back.Bytes, again.Bytes)
	}
	if after := sum(); after != before {
		t.Errorf("the memory had the checksum %s and has %s", before, after)
	}
}

// keeps says whether a host keeps the layer of a container that has left.
func (k *kit) keeps(host string, id int) bool {
	k.t.Helper()
	r := k.at(host, nil, "doctor", "-o", "json")
	var all []api.Finding
	if err := json.Unmarshal([]byte(r.stdout), &all); err != nil {
		k.t.Fatalf("%v: %v", err, r)
	}
	i := slices.IndexFunc(all, func(f api.Finding) bool { return f.Name == "layers kept for a return" })
	return i >= 0 && strings.Contains(all[i].Found, strconv.Itoa(id))
}
