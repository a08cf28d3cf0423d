package simulate

import (
	"encoding/csv"
	"io"
	"strconv"
)

// WritePlacement writes container,host. A container that stayed unplaced has no host.
func (r *Result) WritePlacement(w io.Writer) error {
	return write(w, []string{"container", "host"}, len(r.Placement), func(i int) []string {
		return []string{r.Placement[i].Container, r.Placement[i].Host}
	})
}

// WriteMoves writes step,container,from,to.
func (r *Result) WriteMoves(w io.Writer) error {
	return write(w, []string{"step", "container", "from", "to"}, len(r.Plan), func(i int) []string {
		m := r.Plan[i]
		return []string{strconv.Itoa(m.Step), m.Container, m.From, m.To}
	})
}

func write(w io.Writer, head []string, n int, row func(i int) []string) error {
	c := csv.NewWriter(w)
	if err := c.Write(head); err != nil {
		return err
	}
	for i := range n {
		if err := c.Write(row(i)); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}
