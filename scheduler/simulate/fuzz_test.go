package simulate

import (
	"errors"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
)

// Whatever the files say, they are refused by name or simulated; what is simulated is right.
func FuzzFiles(f *testing.F) {
	f.Add(someHosts, "name,cpu_milli,memory_mib,group,max_per_host,arrive_s,depart_s\na,1,2,g,1,3,4\nb,1,2,g,,,\n", "container,host\na,h1\n")
	f.Add("name,cpu_milli,memory_mib,disk_mib\nh,9007199254740992,8589934592,8589934592\n", "name,cpu_milli,memory_mib\na,9007199254740992,8589934592\nb,9007199254740992,1\n", "container,host\nb,\n")
	f.Add("\ufeffname,cpu_milli,memory_mib\n\"h\n1\",1,1\n", "name,cpu_milli,memory_mib\n\"a", "host,container\n")
	f.Fuzz(func(t *testing.T, hosts, containers, placement string) {
		if len(hosts)+len(containers)+len(placement) > 4096 {
			return
		}
		hs, err := ReadHosts("H.csv", strings.NewReader(hosts))
		if err != nil {
			refused(t, err, "H.csv:")
			return
		}
		all, err := ReadContainers("C.csv", strings.NewReader(containers))
		if err != nil {
			refused(t, err, "C.csv:")
			return
		}
		for _, plan := range []string{Place, Replay} {
			follow(t, hs, all, Options{Plan: plan, Policy: cluster.Pack, MovesPerArrival: 0.5})
		}
		if err := ReadPlacement("P.csv", strings.NewReader(placement), hs, all); err != nil {
			refused(t, err, "P.csv:")
			return
		}
		follow(t, hs, all, Options{Plan: Consolidate, Policy: cluster.Pack})
	})
}

func refused(t *testing.T, err error, file string) {
	t.Helper()
	if !errors.Is(err, cluster.ErrInvalid) || !strings.HasPrefix(err.Error(), file) {
		t.Fatalf("%v is no refusal that names %s", err, file)
	}
}

func follow(t *testing.T, hosts []*cluster.Host, all []Container, o Options) {
	t.Helper()
	r, err := Run(hosts, all, o)
	if errors.Is(err, cluster.ErrInvalid) {
		return
	}
	if err == nil {
		o.MaxMoves = 0
		err = Verify(hosts, all, o, r)
	}
	if err != nil {
		t.Fatalf("%s: %v", o.Plan, err)
	}
}
