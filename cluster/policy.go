package cluster

// Policy is how the whole cluster places containers.
type Policy struct {
	Placement Placement `json:"placement,omitempty"` // empty: spread
	// How much is promised of what a host has, in percent; 0 is 100. Guaranteed memory is never promised twice.
	CPUPercent  int64 `json:"cpu_percent,omitempty"`
	RAMPercent  int64 `json:"ram_percent,omitempty"`
	DiskPercent int64 `json:"disk_percent,omitempty"`
	// Survive keeps so much room that after the loss of any one host all protected containers fit on the others.
	Survive bool `json:"survive,omitempty"`
	// What plans may do at once: moves that a host may be part of, and bits per second from or to one host, and in all. What
	// a move takes is what the container's last one took. 0: as many as the plan is wide.
	MovesPerHost int     `json:"moves_per_host,omitempty"`
	HostMoveRate BitRate `json:"host_move_rate,omitempty"`
	MoveRate     BitRate `json:"move_rate,omitempty"`
}

// maxPercent bounds overcommitment: more is a slip of the hand.
const maxPercent = 10_000

// unlimited stands for what a host does not count. Sums over ten thousand hosts do not overflow.
const unlimited = 1 << 45

// Offer is what a host offers to containers under the policy: its capacity without what is kept for the host itself,
// times what is promised of it. What the host does not declare is unlimited.
func (p Policy) Offer(h *Host) Resources {
	have := h.Capacity.Sub(h.Reserve)
	return Resources{
		MilliCPU:   percent(have.MilliCPU, p.CPUPercent),
		RAM:        percent(have.RAM, p.RAMPercent),
		Disk:       percent(have.Disk, p.DiskPercent),
		Network:    declared(h.Capacity.Network, have.Network),
		Containers: declared(h.MaxContainers, h.MaxContainers),
		Guaranteed: have.RAM,
	}
}

func percent(n, p int64) int64 {
	if p == 0 || p == 100 {
		return n
	}
	return n / 100 * p // in this order it cannot overflow; what is lost is less than a hundredth of a unit
}

func declared[T ~int64](capacity, offer T) T {
	if capacity == 0 {
		return unlimited
	}
	return offer
}

// Check says whether the policy makes sense; what it returns is ErrInvalid.
func (p Policy) Check() error {
	if err := checkPlacement(p.Placement); err != nil {
		return err
	}
	for name, v := range map[string]int64{"cpu": p.CPUPercent, "memory": p.RAMPercent, "disk": p.DiskPercent} {
		if v != 0 && (v < 1 || v > maxPercent) {
			return Refuse(ErrInvalid, "%d%% of the %s cannot be promised; use 1 to %d, 100 is all there is", v, name, maxPercent)
		}
	}
	if p.MovesPerHost < 0 || p.HostMoveRate < 0 || p.MoveRate < 0 {
		return Refuse(ErrInvalid, "moves of plans cannot be limited to less than nothing; 0 is no limit")
	}
	return nil
}

func (c SetPolicy) apply(s *State) (any, error) {
	if err := c.Policy.Check(); err != nil {
		return nil, err
	}
	if c.Policy != s.policy {
		s.policy = c.Policy
		s.touch()
	}
	return &c.Policy, nil
}
