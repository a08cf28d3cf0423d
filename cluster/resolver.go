package cluster

import (
	"net/netip"
	"slices"
	"strings"
)

// DefaultDNS stands for the name servers, or the search domain, that every container has which has none of its own.
const DefaultDNS = "default"

// What a resolver looks at, see resolv.conf(5).
const (
	maxNameServers   = 3
	maxSearchDomains = 6
	maxSearchLength  = 256 // of all domains
	maxDomainLength  = 253
)

// setDNS changes what a container's resolver asks, where something is said of it.
func (c *Container) setDNS(servers, domains []string) error {
	if servers != nil {
		c.NameServers = ownDNS(servers)
	}
	if domains != nil {
		c.SearchDomains = ownDNS(domains)
	}
	return c.checkDNS()
}

// ownDNS is what a container has of its own.
func ownDNS(words []string) []string {
	if len(words) == 0 || len(words) == 1 && words[0] == DefaultDNS {
		return nil
	}
	return slices.Clone(words)
}

func (c *Container) checkDNS() error {
	if len(c.NameServers) > maxNameServers {
		return Refuse(ErrInvalid, "a container can have %d name servers at most, for its resolver asks no more", maxNameServers)
	}
	for _, a := range c.NameServers {
		ip, err := netip.ParseAddr(a)
		if err != nil || ip.Zone() != "" || ip.IsMulticast() || ip.IsUnspecified() {
			return Refuse(ErrInvalid, "%q is no address of a name server; write for example 10.0.0.1, or %s alone", a, DefaultDNS)
		}
	}
	if len(c.SearchDomains) > maxSearchDomains || len(strings.Join(c.SearchDomains, " ")) > maxSearchLength {
		return Refuse(ErrInvalid, "a container can have %d search domains of %d characters together at most", maxSearchDomains, maxSearchLength)
	}
	for _, d := range c.SearchDomains {
		if !isDomain(d) {
			return Refuse(ErrInvalid, "%q is no domain; write for example example.org, or %s alone", d, DefaultDNS)
		}
	}
	return nil
}

// isDomain also takes the root, which is how resolv.conf says that nothing is to be searched.
func isDomain(name string) bool {
	const charset = "abcdefghijklmnopqrstuvwxyz0123456789-_."
	if name == "." {
		return true
	}
	lower := strings.ToLower(strings.TrimSuffix(name, "."))
	return lower != "" && len(lower) <= maxDomainLength && strings.Trim(lower, charset) == "" &&
		strings.Trim(lower, "-.") == lower && !strings.Contains(lower, "..")
}

// sameDNS reports whether two records of a container have the same resolver.
func (c *Container) sameDNS(o *Container) bool {
	return slices.Equal(c.NameServers, o.NameServers) && slices.Equal(c.SearchDomains, o.SearchDomains)
}
