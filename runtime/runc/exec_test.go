package runc

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		program, reason string
		code            int
		says            string
	}{
		{"nope", `exec failed: unable to start container process: exec: "nope": executable file not found in $PATH`, 127, "there is no program nope in the container"},
		{"/nope", `exec failed: unable to start container process: exec: "/nope": stat /nope: no such file or directory`, 127, "no program /nope"},
		{"/etc/passwd", `exec failed: unable to start container process: exec: "/etc/passwd": permission denied`, 126, "/etc/passwd"},
		{"/etc", `exec failed: unable to start container process: exec: "/etc": is a directory`, 126, "/etc"},
		{"/x.sh", `exec failed: unable to start container process: exec /x.sh: no such file or directory`, 127, "interpret"},
		{"true", `exec failed: cannot exec in a stopped container`, 0, "stopped"},
	} {
		code, said := explain(c.program, c.reason)
		if code != c.code || !strings.Contains(said, c.says) {
			t.Errorf("%s: code %d, %q", c.reason, code, said)
		}
	}
}

// What a command says comes through whole, runc's own words stay behind unless somebody asks for them.
func TestOwnWords(t *testing.T) {
	var out bytes.Buffer
	w := &ownWords{to: &out}
	for _, s := range []string{"first\n", "exec failed: ", "no\n", "exec failed: yes\n"} {
		if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	if out.String() != "first\nexec failed: no\n" {
		t.Errorf("before the end it is %q", out.String())
	}
	w.flush()
	if out.String() != "first\nexec failed: no\nexec failed: yes\n" {
		t.Errorf("at the end it is %q", out.String())
	}
}

// An agent that is a service of systemd keeps its socket for itself: runc would wait for the container to use it.
func TestSystemdsSocketIsNotPassedOn(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	t.Setenv("KEPT", "yes")
	env := New(Config{Binary: "runc"}).command(t.Context(), "start", "101").Env
	if slices.Contains(env, "NOTIFY_SOCKET=/run/systemd/notify") || !slices.Contains(env, "KEPT=yes") {
		t.Errorf("runc gets %q", env)
	}
}
