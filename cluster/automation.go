package cluster

import "time"

// Automation is what the cluster does by itself, without being asked. All of it is off unless it is switched on.
type Automation struct {
	Rebalance   bool `json:"rebalance,omitempty"`   // even out the load of hosts
	Consolidate bool `json:"consolidate,omitempty"` // free hosts
	Park        bool `json:"park,omitempty"`        // switch off hosts that are free, and on again when there is no room
	// Window is when plans may begin by themselves; waking a host has no window.
	Window Window `json:"window,omitzero"`
	// Imbalance is by how many points of a hundred the fullest host must be fuller than the emptiest one.
	Imbalance int `json:"imbalance,omitempty"`
	// Hold is how long there must have been a reason before a plan begins, CoolDown how long none begins after the last,
	// Idle how long a host must have been free before it is switched off. Milliseconds.
	HoldMS     int64 `json:"hold_ms,omitempty"`
	CoolDownMS int64 `json:"cool_down_ms,omitempty"`
	IdleMS     int64 `json:"idle_ms,omitempty"`
	// RestMS is how long a container, or a host that has just been switched on or opened, is left alone by these plans after
	// it came. Milliseconds.
	RestMS int64 `json:"rest_ms,omitempty"`
	// MinGain is how much a move of a plan must gain, what it costs taken off, in points of a hundred of a host.
	MinGain int `json:"min_gain,omitempty"`
	// Spare is how much of the memory and the cores of the hosts that are on must stay free when one is to be switched off, in
	// points of a hundred.
	Spare int `json:"spare,omitempty"`
}

// The defaults of what Automation leaves out.
const (
	defaultImbalance = 20
	defaultSpare     = 20
	defaultHold      = time.Minute
	defaultCoolDown  = 10 * time.Minute
	defaultIdle      = 10 * time.Minute
	defaultRest      = 15 * time.Minute
	defaultGain      = 1
)

// WithDefaults fills in what is left out.
func (a Automation) WithDefaults() Automation {
	def := func(to *int64, d time.Duration) {
		if *to == 0 {
			*to = d.Milliseconds()
		}
	}
	def(&a.HoldMS, defaultHold)
	def(&a.CoolDownMS, defaultCoolDown)
	def(&a.IdleMS, defaultIdle)
	def(&a.RestMS, defaultRest)
	if a.MinGain == 0 {
		a.MinGain = defaultGain
	}
	if a.Imbalance == 0 {
		a.Imbalance = defaultImbalance
	}
	if a.Spare == 0 {
		a.Spare = defaultSpare
	}
	return a
}

// Check says whether the automation makes sense; what it returns is ErrInvalid.
func (a Automation) Check() error {
	switch {
	case a.Rebalance && a.Consolidate:
		return Refuse(ErrInvalid, "a cluster cannot both spread its load and gather it; switch on one of rebalance and consolidate")
	case a.Imbalance < 0 || a.Imbalance > 100:
		return Refuse(ErrInvalid, "hosts cannot differ by %d points of a hundred; use 1 to 100", a.Imbalance)
	case a.Spare < 0 || a.Spare > 100:
		return Refuse(ErrInvalid, "%d points of a hundred cannot be spared; use 1 to 100", a.Spare)
	case a.MinGain < 0 || a.MinGain > 100:
		return Refuse(ErrInvalid, "a move cannot gain %d points of a hundred; use 1 to 100", a.MinGain)
	case a.HoldMS < 0 || a.CoolDownMS < 0 || a.IdleMS < 0 || a.RestMS < 0:
		return Refuse(ErrInvalid, "the times of the automation cannot be negative")
	}
	return a.Window.check()
}

func (c SetAutomation) apply(s *State) (any, error) {
	if err := c.Automation.Check(); err != nil {
		return nil, err
	}
	a := c.Automation
	s.automation = &a
	s.touch()
	return &a, nil
}

// Automation is what the cluster does by itself.
func (s *State) Automation() Automation {
	if s.automation == nil {
		return Automation{}
	}
	return *s.automation
}

// PowerMethod is how a host is switched off and on.
type PowerMethod string

// The methods. The empty one: it is not.
const (
	PowerCommand PowerMethod = "command" // a hook that is called with park or wake and the host's name
	PowerIPMI    PowerMethod = "ipmi"    // ipmitool, to the host's management controller
	PowerWOL     PowerMethod = "wol"     // the host's own poweroff, and a magic packet
)

// Power says how a host is switched off and on. Hooks and ipmitool run on the leader.
type Power struct {
	Method   PowerMethod `json:"method"`
	Hook     string      `json:"hook,omitempty"`     // command: a file's name in the leader's hooks_dir
	Address  string      `json:"address,omitempty"`  // ipmi: of the controller; wol: where the packet is sent, empty: everywhere
	User     string      `json:"user,omitempty"`     // ipmi
	Password string      `json:"password,omitempty"` // ipmi: a file's name in the leader's hooks_dir that holds it
	MAC      string      `json:"mac,omitempty"`      // wol
}

// Check says whether the power makes sense; what it returns is ErrInvalid.
func (p Power) Check() error {
	switch p.Method {
	case "":
	case PowerCommand:
		if p.Hook == "" {
			return Refuse(ErrInvalid, "name the hook that switches the host off and on")
		}
	case PowerIPMI:
		if p.Address == "" || p.User == "" || p.Password == "" {
			return Refuse(ErrInvalid, "ipmi needs the controller's address, a user and the file of the password")
		}
	case PowerWOL:
		if p.MAC == "" {
			return Refuse(ErrInvalid, "wake-on-lan needs the MAC of the host's network card")
		}
	default:
		return Refuse(ErrInvalid, "%q is no way to switch a host off and on; use %s, %s or %s", p.Method, PowerCommand, PowerIPMI, PowerWOL)
	}
	for _, name := range []string{p.Hook, p.Password} {
		if name != "" && CheckHook(name) != nil {
			return CheckHook(name)
		}
	}
	return nil
}

// CheckHook says whether something can be the name of a file in the hooks' directory; what it returns is ErrInvalid.
func CheckHook(name string) error {
	if CheckName("hook", name) != nil {
		return Refuse(ErrInvalid, "%q is no name of a hook; use the name of a file in hooks_dir: lower-case letters, digits, '-' and '.'", name)
	}
	return nil
}
