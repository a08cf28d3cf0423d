package e2e

import (
	"fmt"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
)

// goesOn is the check of a workload that one client uses all the time.
func (c *counter) check() check { return check{goesOn: c.goesOn, end: func() { c.stop() }} }

// startObjects holds one of every kernel object.
func startObjects(k *kit, c api.Container) check {
	k.startObjectsServer(c)
	ask := func() {
		k.t.Helper()
		out, code := k.on(lab.Outside, "timeout 30 busybox wget -q -O - http://"+address(c)+":9100/check")
		if code != 0 || !strings.Contains(out, "OK zombie child") {
			k.t.Fatalf("asked for its objects it says %q; its log: %s", out, k.inside(c.Name, "journalctl -u objects --no-pager | tail -20"))
		}
		for line := range strings.Lines(out) {
			if !strings.HasPrefix(line, "OK ") {
				k.t.Errorf("after a move: %s", line)
			}
		}
	}
	ask()
	return check{ask, ask}
}

// startObjectsServer starts the server of the objects, which others use too.
func (k *kit) startObjectsServer(c api.Container) {
	k.t.Helper()
	if k.inside(c.Name, "systemctl is-active objects || true") == "active" {
		return
	}
	k.put(c, shared.objects, "/usr/local/bin/objects")
	k.inside(c.Name, "mkdir /var/lib/objects && systemd-run --unit=objects -p WorkingDirectory=/var/lib/objects /usr/local/bin/objects serve :9100")
	k.listens(c, "9100")
}

func startGo(k *kit, c api.Container) check {
	k.startObjectsServer(c)
	return k.client(shared.load, "count", "http://"+address(c)+":9100/count").check()
}

func startUDP(k *kit, c api.Container) check {
	k.startObjectsServer(c)
	return k.client(shared.load, "udp", address(c)+":9100").check()
}

func startRedis(k *kit, c api.Container) check {
	k.inside(c.Name, "redis-cli config set protected-mode no && redis-cli config set bind '* -::*'")
	client := k.countAtRest(address(c)+":6379", 5*time.Millisecond)
	return check{client.goesOn, func() {
		seen := client.stop()
		if got := k.inside(c.Name, "redis-cli get counter"); got != fmt.Sprint(seen.Last) {
			k.t.Errorf("redis has counted to %s, its client to %d", got, seen.Last)
		}
	}}
}

func startPostgres(k *kit, c api.Container) check {
	k.inside(c.Name, `cd /etc/postgresql/*/main && echo "listen_addresses = '*'" > conf.d/workload.conf &&
		echo 'host all all 0.0.0.0/0 trust' >> pg_hba.conf && systemctl restart postgresql@15-main`)
	k.listens(c, "5432")
	client := k.client(shared.load, "postgres", address(c)+":5432", "4")
	return check{client.goesOn, func() {
		k.t.Logf("PostgreSQL has committed %d transactions", client.stop().Last)
		if log := k.inside(c.Name, "grep -hE 'PANIC|FATAL|ERROR|interrupted' /var/log/postgresql/*.log || true"); log != "" {
			k.t.Errorf("PostgreSQL complains: %s", log)
		}
	}}
}

func startNginx(k *kit, c api.Container) check {
	k.inside(c.Name, "echo 'keepalive_requests 1000000000;' > /etc/nginx/conf.d/workload.conf && systemctl restart nginx")
	k.listens(c, "80")
	return k.client(shared.load, "get", "http://"+address(c)+"/").check()
}

// startDownload is a large file on its way.
func startDownload(k *kit, c api.Container) check {
	sum := k.inside(c.Name, "cd /var/www/html && head -c 64M /dev/urandom > large && sha256sum large | cut -d' ' -f1")
	return k.client(shared.load, "download", "http://"+address(c)+"/large", sum).check()
}

func startPython(k *kit, c api.Container) check {
	k.put(c, "testdata/threads.py", "/usr/local/bin/threads.py")
	k.inside(c.Name, "systemd-run --unit=threads python3 /usr/local/bin/threads.py 9200")
	k.listens(c, "9200")
	client := k.countAtRest(address(c)+":9200", 5*time.Millisecond)
	ticks := func() string { return k.inside(c.Name, "cat /run/threads.ticks") }
	return check{func() {
		client.goesOn()
		before := ticks()
		k.until("its interval timer ticks", recovery, func() error {
			if now := ticks(); now == before {
				return fmt.Errorf("at %s", now)
			}
			return nil
		})
	}, func() { client.stop() }}
}
