package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
)

// timers write down when they fire: cron and a calendar timer every minute, another every 20 seconds, which is
// longer than a container stands still, even on a loaded machine.
const timers = `cd /etc/systemd/system
for every in 20 60; do
	printf '[Service]\nType=oneshot\nExecStart=/bin/sh -c "date +%%%%s >> /var/log/fired-%s"\n' $every > fired-$every.service
done
printf '[Timer]\nOnCalendar=*:*:0/20\nAccuracySec=1ms\n' > fired-20.timer
printf '[Timer]\nOnCalendar=minutely\nAccuracySec=1ms\n' > fired-60.timer
systemctl daemon-reload
systemctl start fired-20.timer fired-60.timer
echo '* * * * * root date +\%s >> /var/log/fired-cron' > /etc/cron.d/workload`

// startTimers has every timer fire once whenever it is due, however often the container moves.
func startTimers(k *kit, c api.Container) check {
	k.inside(c.Name, timers)
	once := 0
	began := time.Now()
	return check{func() { // a timer that is running at the next move
		once++
		k.inside(c.Name, fmt.Sprintf(`systemd-run --on-active=3s --timer-property=AccuracySec=1ms sh -c 'echo %d >> /var/log/fired-once'`, once))
	}, func() {
		k.firesOnce(c, "cron", time.Minute, began)
		k.firesOnce(c, "60", time.Minute, began)
		k.firesOnce(c, "20", 20*time.Second, began)
		var want []string
		for n := range once {
			want = append(want, fmt.Sprint(n+1))
		}
		k.until("timers that fire once", recovery, func() error {
			if got := strings.Fields(k.inside(c.Name, "cat /var/log/fired-once")); fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("%v have fired, not %v", got, want)
			}
			return nil
		})
	}}
}

// firesOnce reads when a timer has fired: once in every period since the test began.
func (k *kit) firesOnce(c api.Container, name string, period time.Duration, began time.Time) {
	k.t.Helper()
	k.until("timer "+name, recovery, func() error {
		seconds := int64(period.Seconds())
		first := began.Unix()/seconds + 1
		want := k.now(c)/seconds - first + 1 // so many periods have begun since
		got := int64(0)
		for _, line := range strings.Fields(k.inside(c.Name, "cat /var/log/fired-"+name+" || true")) {
			at, err := strconv.ParseInt(line, 10, 64)
			if err != nil {
				k.t.Fatalf("timer %s: %v", name, err)
			}
			if slot := at / seconds; slot < first {
				continue // while it was being set up
			} else if slot != first+got {
				k.t.Fatalf("timer %s has fired in period %d when %d was next", name, slot, first+got)
			}
			got++
		}
		if want < 1 || got < want {
			return fmt.Errorf("it has fired %d times, not %d", got, want)
		}
		return nil
	})
}

// now is the time in a container.
func (k *kit) now(c api.Container) int64 {
	k.t.Helper()
	n, err := strconv.ParseInt(k.inside(c.Name, "date +%s"), 10, 64)
	if err != nil {
		k.t.Fatal(err)
	}
	return n
}

// startSSH opens a session with a terminal, in which a shell counts.
func startSSH(k *kit, c api.Container) check {
	key := filepath.Join(shared.dir, c.Name+".key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		k.t.Fatalf("%v: %s", err, out)
	}
	k.inside(c.Name, "mkdir -p -m 700 /root/.ssh")
	k.put(c, key+".pub", "/root/.ssh/authorized_keys")
	in, out := k.outside("ssh", "-i", key, "-tt", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"root@"+address(c), "stty -echo; echo 0; n=0; while read -r line; do n=$((n+1)); echo $n; done")
	n := 0
	answers := func() {
		k.t.Helper()
		if line := k.line(out); line != fmt.Sprint(n) {
			k.t.Fatalf("the ssh session says %q, not %d", line, n)
		}
	}
	answers()
	goesOn := func() {
		k.t.Helper()
		for range 5 {
			n++
			if _, err := fmt.Fprintln(in, "go on"); err != nil {
				k.t.Fatalf("the ssh session: %v", err)
			}
			answers()
		}
	}
	return check{goesOn, goesOn}
}

// outside starts a program on the outside that is talked to line by line. It is killed after the test.
func (k *kit) outside(command ...string) (in *os.File, lines <-chan string) {
	k.t.Helper()
	stdin, in, err := os.Pipe()
	if err != nil {
		k.t.Fatal(err)
	}
	out, stdout, err := os.Pipe()
	if err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	said, ended := make(chan string), make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = k.lab.Exec(ctx, lab.Outside, command, stdin, stdout, stdout)
		stdout.Close()
	}()
	go func() {
		defer close(said)
		for s := bufio.NewScanner(out); s.Scan(); {
			select {
			case said <- strings.TrimSpace(s.Text()):
			case <-ctx.Done():
				return
			}
		}
	}()
	k.t.Cleanup(func() {
		cancel()
		<-ended
		for _, f := range []*os.File{stdin, in, out} {
			f.Close()
		}
	})
	return in, said
}

// line waits for a program's next line.
func (k *kit) line(lines <-chan string) string {
	k.t.Helper()
	select {
	case l, more := <-lines:
		if !more {
			k.t.Fatal("the program has ended")
		}
		return l
	case <-time.After(recovery):
		k.t.Fatal("the program says nothing")
	}
	return ""
}
