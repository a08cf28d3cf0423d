package doctor

import "fmt"

func dataDir(c Config, f Facts) Finding {
	if f.Closed == "" {
		return good("data_dir", c.DataDir)
	}
	return bad("data_dir", fmt.Sprintf("%s: other users cannot pass %s", c.DataDir, f.Closed),
		"containers: their root is no root here and cannot reach its own files", "chmod o+x "+f.Closed)
}

func group(c Config, f Facts) Finding {
	if f.Group {
		return good("group", c.Group)
	}
	return warn("group", fmt.Sprintf("there is no group %q", c.Group), "use of the agent's socket by others than root", "groupadd --system "+c.Group)
}

// network judges bridge and uplink against the configuration; what is absent and made by the agent is fine.
func network(c Config, f Facts) []Finding {
	all := []Finding{bridge(c, f)}
	if u, ok := uplink(c, f); ok {
		all = append(all, u)
	}
	if c.NAT {
		found := "off; the agent switches it on, because network.nat is set"
		if f.Sysctls[forwarding] == 1 {
			found = "on"
		}
		all = append(all, good(forwarding, found))
	}
	return all
}

const forwarding = "net.ipv4.ip_forward"

func bridge(c Config, f Facts) Finding {
	const name = "network.bridge"
	switch f.Bridge.Kind {
	case "bridge":
		return good(name, c.Bridge)
	case "":
		return good(name, c.Bridge+", which the agent makes at its start")
	}
	return bad(name, fmt.Sprintf("%s is an interface of another kind, a %s", c.Bridge, f.Bridge.Kind), "the containers' network",
		"set network.bridge in "+c.File+" to a name that is free")
}

// uplink has nothing to say when the bridge has a way to the LAN already.
func uplink(c Config, f Facts) (Finding, bool) {
	const name = "network.uplink"
	lan := f.LAN
	if lan == "" || lan == c.Bridge {
		lan = "the LAN's interface"
	}
	switch {
	case c.Uplink == "" && f.Bridge.Ports > 0:
		return good(name, fmt.Sprintf("none, but the bridge has %d port(s) that are not ours", f.Bridge.Ports)), true
	case c.Uplink == "":
		return warn(name, "none", "a container's connections to other hosts and their containers, also after a move",
			fmt.Sprintf("set network.uplink in %s to %s (its addresses move to the bridge)", c.File, lan)), true
	case f.Uplink.Kind == "":
		return bad(name, fmt.Sprintf("there is no interface %s", c.Uplink), "the agent: it does not start",
			fmt.Sprintf("set network.uplink in %s to %s", c.File, lan)), true
	case f.Uplink.Master != "" && f.Uplink.Master != c.Bridge:
		return bad(name, fmt.Sprintf("%s belongs to %s", c.Uplink, f.Uplink.Master), "the agent: it does not start",
			fmt.Sprintf("set network.bridge in %s to %s and network.uplink to \"\"", c.File, f.Uplink.Master)), true
	}
	return good(name, c.Uplink), true
}
