package vzctl

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// password reads USER:PASSWORD for `set`. Neither is repeated in what is said when it is wrong.
func (p *params) password() option {
	return option{name: "userpasswd", value: true, set: func(v string) error {
		user, password, ok := strings.Cut(v, ":")
		if !ok || user == "" || password == "" {
			return errors.New("write USER:PASSWORD")
		}
		if p.passwords == nil {
			p.passwords = map[string]string{}
		}
		p.passwords[user] = password
		return nil
	}}
}

// setPasswords changes passwords inside a container, running or not. Only hashes leave this machine.
func (t *tool) setPasswords(p params, inside func(api.InsideRequest) error) error {
	r := api.InsideRequest{Passwords: map[string]string{}}
	users := slices.Sorted(maps.Keys(p.passwords))
	for _, user := range users {
		hash, err := t.Hash(p.passwords[user])
		if err != nil {
			return fail(codePassword, "Unable to hash the password of %s: %v", user, err)
		}
		r.Passwords[user] = hash
	}
	if len(users) == 0 {
		return nil
	}
	if err := inside(r); err != nil {
		if api.CodeOf(err) == api.CodeLocked || api.CodeOf(err) == api.CodeDenied {
			return classify(err, codePassword)
		}
		return fail(codePassword, "Unable to change the password: %v", err)
	}
	for _, user := range users {
		t.say("Changing password for user %s", user)
	}
	return nil
}

// numproc reads how many processes there may be.
func numproc(p *params, v string) error {
	if v = upper(v); unlimited(v) {
		v = "0"
	}
	return number(v, 0, maxNumber, &p.set.PIDs)
}

// addNIC reads ifname[,mac[,host_ifname[,host_mac[,bridge]]]]: the bridge is the name of a network of the cluster here.
func addNIC(p *params, v string) error {
	const parts = 5
	f := strings.Split(v, ",")
	if f[0] == "" || len(f) > parts {
		return fmt.Errorf("%s is not ifname[,mac,host_ifname,host_mac,bridge]", v)
	}
	f = append(f, make([]string, parts-len(f))...)
	if f[1]+f[2]+f[3] != "" {
		p.notes = append(p.notes, "Warning: MAC addresses and the names of interfaces of the host are ignored in --netif_add: the cluster chooses them")
	}
	p.set.NICAdd = append(p.set.NICAdd, cluster.NIC{Name: f[0], Network: f[parts-1]})
	return nil
}

func removeNIC(p *params, v string) error {
	if v == "" {
		return errors.New("write the name of a network card, as eth1")
	}
	p.set.NICDel = append(p.set.NICDel, v)
	return nil
}

// disabled reads whether a container may be started at all, which cannot be forbidden here.
func disabled(p *params, v string) error {
	switch v {
	case "no":
		return nil
	case "yes":
		return fail(codeValue, "A container cannot be disabled here; `--onboot no` keeps it from being started with its host")
	}
	return fmt.Errorf("%s is neither yes nor no", v)
}

// later are the settings that `create` makes once the container is there.
func (p *params) later() (r api.SetRequest, any bool) {
	s := p.set
	r = api.SetRequest{OnBoot: s.OnBoot, BootOrder: s.BootOrder, Text: s.Text, NICAdd: s.NICAdd}
	return r, s.OnBoot != nil || s.BootOrder != nil || s.Text != nil || len(s.NICAdd) > 0
}

// resolver adds name servers or search domains; inherit means those that all have here.
func resolver(v string, to *[]string) error {
	words := strings.Fields(v)
	if len(words) == 0 {
		return errors.New("write an address or a domain, or inherit")
	}
	if words[0] == "inherit" {
		words[0] = cluster.DefaultDNS
	}
	*to = append(*to, words...)
	return nil
}
