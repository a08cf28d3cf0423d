package vzctl

import (
	"strconv"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
)

func id(c api.Container) string { return strconv.Itoa(c.ID) }

// addressesOf returns a container's addresses without the length of the network.
func addressesOf(c api.Container) []string {
	var ips []string
	for _, a := range c.Addresses {
		ip, _, _ := strings.Cut(a, "/")
		ips = append(ips, ip)
	}
	return ips
}

// noMore refuses arguments where none are taken.
func noMore(rest []string, err error) error {
	if err == nil && len(rest) > 0 {
		err = fail(codeSyntax, "Invalid syntax: `%s` is too much", rest[0])
	}
	return err
}
