package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// hookTime is how long a hook may take.
const hookTime = 30 * time.Minute

// wakeAgain is after how long a host that was woken and is not back is woken once more.
const wakeAgain = 2 * time.Minute

// hook runs a program of this host's directory of hooks. It must belong to root and be writable by nobody else: it runs
// as root whenever the cluster says so.
func (a *Agent) hook(ctx context.Context, name string, args ...string) error {
	if err := cluster.CheckHook(name); err != nil {
		return err
	}
	path := filepath.Join(a.cfg.HooksDir, name)
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("the hook %s cannot be run on %s: %w", name, a.cfg.Name, err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 || ok && st.Uid != uint32(os.Geteuid()) {
		return api.Errorf(api.CodeRefused, "chown root and chmod 0755 it", "the hook %s on %s must be a file that only root can write", path, a.cfg.Name)
	}
	return run(ctx, path, args...)
}

// run runs a program; its error says how its output ended.
func run(ctx context.Context, path string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, hookTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second // what it leaves running may hold its output open
	out, err := cmd.CombinedOutput()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	const most = 500
	text := strings.TrimSpace(string(out))
	return fmt.Errorf("%s %s: %w: %s", filepath.Base(path), strings.Join(args, " "), err, text[max(0, len(text)-most):])
}

// switchPower switches a host off or on; it runs on the leader.
func (m *member) switchPower(ctx context.Context, h *cluster.Host, on bool) error {
	verb := map[bool]string{false: "park", true: "wake"}[on]
	switch p := h.Power; p.Method {
	case cluster.PowerCommand:
		return m.hook(ctx, p.Hook, verb, h.Name)
	case cluster.PowerIPMI:
		action := map[bool]string{false: "soft", true: "on"}[on]
		return run(ctx, "ipmitool", "-I", "lanplus", "-H", p.Address, "-U", p.User, "-f", filepath.Join(m.cfg.HooksDir, p.Password), "chassis", "power", action)
	case cluster.PowerWOL:
		if on {
			return wakeOnLAN(p)
		}
		err := m.peers.call(ctx, http.MethodPost, h.Name, "/v1/local/poweroff", nil, nil)
		if err != nil && !m.alive(h.Name) {
			return nil // it was quicker than its answer
		}
		return err
	}
	return api.Errorf(api.CodeRefused, "see 'vzcluster host set "+h.Name+" --power'", "it is not known how host %s is switched off and on", h.Name)
}

// wakeOnLAN sends the packet that network cards wait for.
func wakeOnLAN(p cluster.Power) error {
	mac, err := net.ParseMAC(p.MAC)
	if err != nil || len(mac) != 6 {
		return fmt.Errorf("%q is not the MAC of a network card: %w", p.MAC, cluster.ErrInvalid)
	}
	to := p.Address
	if to == "" {
		to = "255.255.255.255"
	}
	conn, err := net.Dial("udp", net.JoinHostPort(to, "9"))
	if err != nil {
		return fmt.Errorf("the packet that wakes the host cannot be sent: %w", err)
	}
	defer conn.Close()
	_, err = conn.Write(magicPacket(mac))
	return err
}

// magicPacket is six bytes of ones and sixteen times the card's address.
func magicPacket(mac net.HardwareAddr) []byte {
	packet := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for range 16 {
		packet = append(packet, mac...)
	}
	return packet
}

// handlePoweroff switches this host off; it has no containers any more.
func (m *member) handlePoweroff(_ http.ResponseWriter, r *http.Request) (any, error) {
	if n := m.store.State().CountOn(m.name); n > 0 {
		return nil, api.Errorf(api.CodeConflict, "", "%s still has %d containers, it is not switched off", m.name, n)
	}
	return nil, run(r.Context(), "systemctl", "poweroff")
}

// park begins to switch a host off. It must be empty; what else is needed the state checks.
func (m *member) park(ctx context.Context, host, why string) error {
	h := m.store.State().Host(host)
	switch {
	case h == nil:
		return notFound("host", host, "vzcluster host ls")
	case h.Power.Method == "":
		return api.Errorf(api.CodeRefused, "see 'vzcluster host set "+host+" --power'", "it is not known how host %s is switched off and on", host)
	}
	_, err := applyHere[*cluster.Host](ctx, m, cluster.SetHostState{Name: host, State: cluster.HostParking, Detail: why, At: time.Now().UTC()})
	return err
}

// handleHostPower parks a host or wakes it.
func (m *member) handleHostPower(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.PowerRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	name := r.PathValue("host")
	h := m.store.State().Host(name)
	if h == nil {
		return nil, notFound("host", name, "vzcluster host ls")
	}
	var err error
	switch {
	case req.On && h.State.Awake():
		return nil, api.Errorf(api.CodeConflict, "", "host %s is %s, not parked", name, h.State)
	case req.On:
		err = m.setHostState(r.Context(), name, cluster.HostWaking, "somebody asked for it")
	case !h.State.Awake():
	default:
		err = m.park(r.Context(), name, "somebody asked for it")
	}
	if err != nil {
		return nil, err
	}
	s := m.store.State()
	return m.host(s, s.Host(name)), nil
}

func (m *member) setHostState(ctx context.Context, host string, state cluster.HostState, why string) error {
	_, err := applyHere[*cluster.Host](ctx, m, cluster.SetHostState{Name: host, State: state, Detail: why, At: time.Now().UTC()})
	return err
}

// drivePower takes hosts that are being parked or woken one step further. Hooks run beside the leader's loop, one for a
// host at a time.
func (m *member) drivePower(ctx context.Context) {
	for _, h := range m.store.State().Hosts() {
		switch h.State {
		case cluster.HostParking:
			if h.Name == m.name { // somebody else switches this one off
				_ = m.store.StepDown()
				return
			}
			if !h.Voter {
				m.power(ctx, h, false)
			}
		case cluster.HostWaking:
			if _, called := m.woken.Load(h.Name); called && m.alive(h.Name) && m.answers(ctx, h.Name) {
				m.noteState(ctx, h, cluster.HostActive, "")
			} else {
				m.power(ctx, h, true)
			}
		}
	}
}

// power switches a host off or on beside the leader's loop.
func (m *member) power(ctx context.Context, h *cluster.Host, on bool) {
	key := "power " + h.Name
	if last, ok := m.woken.Load(h.Name); on && ok && time.Since(last.(time.Time)) < wakeAgain {
		return
	}
	if _, busy := m.plans.LoadOrStore(key, struct{}{}); busy {
		return
	}
	m.beside.Go(func() {
		defer m.plans.Delete(key)
		err := m.switchPower(ctx, h, on)
		switch {
		case on:
			m.woken.Store(h.Name, time.Now())
			if err != nil {
				m.log.Warn("a host cannot be woken", "host", h.Name, "error", err)
			}
		case err != nil:
			m.log.Warn("a host cannot be parked", "host", h.Name, "error", err)
			m.noteState(ctx, h, cluster.HostActive, "it could not be parked: "+err.Error())
		default:
			m.woken.Delete(h.Name)
			m.noteState(ctx, h, cluster.HostParked, h.Detail)
		}
	})
}

// noteState changes the state of a host unless somebody else has done so meanwhile.
func (m *member) noteState(ctx context.Context, was *cluster.Host, state cluster.HostState, why string) {
	if now := m.store.State().Host(was.Name); now == nil || now.State != was.State {
		return
	}
	if err := m.setHostState(ctx, was.Name, state, why); err != nil && ctx.Err() == nil {
		m.log.Warn("a host's state could not be recorded", "host", was.Name, "state", state, "error", err)
	}
}
