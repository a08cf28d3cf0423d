package main

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/cluster"
)

// parseSize reads bytes, or K, M, G, T in powers of 1024, also with fractions: 512M, 1.5G. A trailing B or iB is
// accepted. Nothing is smaller than zero.
func parseSize(s string) (int64, error) {
	bad := fmt.Errorf("%s is not a size, write for example 512M or 2G", orNothing(s))
	number := strings.ToUpper(strings.TrimSpace(s))
	number = strings.TrimSuffix(strings.TrimSuffix(number, "B"), "I")
	shift := 0
	if n := len(number); n > 0 {
		if i := strings.IndexByte("KMGT", number[n-1]); i >= 0 {
			shift, number = 10*(i+1), number[:n-1]
		}
	}
	f, err := parseDecimal(number)
	if err != nil || strings.HasSuffix(strings.ToUpper(s), "I") {
		return 0, bad
	}
	f *= math.Pow(2, float64(shift))
	if f >= math.MaxInt64 {
		return 0, fmt.Errorf("%s is more than any machine has", s)
	}
	return int64(f), nil
}

// parseAmount is parseSize for what a container or a host gets. A bare number is bytes, which nobody means when it is
// small.
func parseAmount(s string) (int64, error) {
	n, err := parseSize(s)
	if _, bare := strconv.ParseInt(s, 10, 64); err == nil && bare == nil && n > 0 && n < 1<<20 {
		return 0, fmt.Errorf("%s bytes is too little, write for example %sM", s, s)
	}
	return n, err
}

// parseCPUs reads cores, with fractions, into thousandths of a core.
func parseCPUs(s string) (int64, error) {
	f, err := parseDecimal(s)
	if err != nil || f > 1<<20 {
		return 0, fmt.Errorf("%s is not a number of cores, write for example 1 or 0.5", orNothing(s))
	}
	return int64(math.Round(f * 1000)), nil
}

// parseDecimal reads digits with at most one point, and nothing that Go takes beyond that (1e3, 0x10, inf, 1_0).
func parseDecimal(s string) (float64, error) {
	if strings.Trim(s, "0123456789.") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(s, 64)
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// parseIP reads what --ip takes; the state checks whether the address is free and in the pool.
func parseIP(s string) (string, error) {
	for word := range strings.SplitSeq(s, ",") {
		switch word {
		case "auto", "auto4", "auto6", "none":
			continue
		}
		if _, err := netip.ParseAddr(word); err == nil {
			continue
		}
		if _, err := netip.ParsePrefix(word); err != nil {
			return "", fmt.Errorf("%s is not an address, write auto, none, or for example 10.0.0.7", orNothing(word))
		}
	}
	return s, nil
}

// parseLabels reads k=v pairs.
func parseLabels(pairs []string) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	labels := map[string]string{}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("%s is not a label, write for example tier=web", orNothing(p))
		}
		labels[k] = v
	}
	return labels, nil
}

// parseBinds reads folders of hosts as create takes them.
func parseBinds(words []string) (out []cluster.Mount, err error) {
	for _, w := range words {
		parts := strings.Split(w, ":")
		if len(parts) < 2 {
			return nil, fmt.Errorf("%s names no folder inside, write for example /srv/data:/data:ro", orNothing(w))
		}
		m := cluster.Mount{Source: parts[0], Path: parts[1]}
		for _, option := range parts[2:] {
			switch option {
			case "ro":
				m.ReadOnly = true
			case "shared":
				m.Shared = true
			default:
				return nil, fmt.Errorf("%s: %s is neither ro nor shared", w, orNothing(option))
			}
		}
		if err := m.Check(); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// parseDuration reads 90s, 2m, 1h30m; plain numbers are seconds.
func parseDuration(s string) (time.Duration, error) {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s is not a time, write for example 30s or 1h", orNothing(s))
	}
	return d, nil
}

// parseDowntime reads how long a container may stand still. A number without a unit is refused: it would be milliseconds
// to some and seconds to others.
func parseDowntime(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Millisecond {
		return 0, fmt.Errorf("%s is not a downtime, write at least 1ms, for example 300ms or 2s", orNothing(s))
	}
	return d, nil
}

// flagValue parses a flag with one of the functions above; a bad value is a usage error that names the flag.
func flagValue[T any](c *cli.Context, name string, parse func(string) (T, error)) (T, error) {
	v, err := parse(c.String(name))
	if err != nil {
		return v, usagef(c, "%s: %v", name, err)
	}
	return v, nil
}
