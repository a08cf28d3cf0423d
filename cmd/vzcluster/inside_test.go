package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/GehirnInc/crypt/sha512_crypt"

	"github.com/vzcluster/vzcluster/agent/api"
)

func TestSetInside(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteInside: struct{}{}, api.RouteContainer: api.Container{}, api.RouteSet: api.Container{}})
	key := filepath.Join(t.TempDir(), "key")
	write(t, key, "ssh-ed25519 AAAA me")
	if r := f.runWith(nil, "ann:two:three\n", "set", "web", "--password", "root:secret", "--password", "-", "--ssh-key", "root:"+key, "--timezone", "Europe/Berlin"); r.code != 0 {
		t.Fatal(r)
	}
	var got api.InsideRequest
	_, body, _ := strings.Cut(f.asked[0], " {")
	if err := json.Unmarshal([]byte("{"+body), &got); err != nil {
		t.Fatal(err, f.asked)
	}
	for user, password := range map[string]string{"root": "secret", "ann": "two:three"} {
		if err := sha512_crypt.New().Verify(got.Passwords[user], []byte(password)); err != nil {
			t.Errorf("%s got %q: %v", user, got.Passwords[user], err)
		}
	}
	if got.Keys["root"] != "ssh-ed25519 AAAA me\n" || got.TimeZone != "Europe/Berlin" || strings.Contains(strings.Join(f.asked, ""), "secret") {
		t.Errorf("asked %q", f.asked)
	}
	if strings.Contains(strings.Join(f.asked, ""), "PATCH") {
		t.Errorf("what is not kept was set: %q", f.asked)
	}
	if f.run("set", "web", "--ram", "1G", "--timezone", "Europe/Berlin"); !strings.Contains(strings.Join(f.asked, ""), "PATCH") {
		t.Errorf("the limit was not set: %q", f.asked)
	}
	n := len(f.asked)
	for _, bad := range [][]string{{"--password", "secret"}, {"--password", "root:"}, {"--ssh-key", "root"}, {"--ssh-key", "root:/no/such"}, {"--timezone", ""}} {
		r := f.run(append([]string{"set", "web"}, bad...)...)
		if r.code != 2 || strings.Contains(r.stderr, "secret") {
			t.Errorf("%v: %+v", bad, r)
		}
	}
	if len(f.asked) != n {
		t.Errorf("bad input asked for %q", f.asked[n:])
	}
}
