package fault

import (
	"context"

	"github.com/vzcluster/vzcluster/runtime"
)

// The adapters below pass a point after every call that has changed something: state on the host differs from then on.
// Where a program of its own is at work they pass one before it, so that tests can kill it there.

// Roots passes roots.* points.
func (in *Injector) Roots(r runtime.Roots) runtime.Roots { return roots{r, in} }

// Network passes network.* points.
func (in *Injector) Network(n runtime.Network) runtime.Network { return network{n, in} }

// Cgroups passes cgroup.* points.
func (in *Injector) Cgroups(c runtime.Cgroups) runtime.Cgroups { return cgroups{c, in} }

// OCI passes runc.* points.
func (in *Injector) OCI(o runtime.OCI) runtime.OCI { return oci{o, in, &mark{host: in.Host}} }

// done passes a point if a call went well.
func (in *Injector) done(point string, err error) error {
	if err != nil {
		return err
	}
	return in.At(point)
}

type roots struct {
	runtime.Roots
	in *Injector
}

func (r roots) Mount(ctx context.Context, s runtime.Spec, template string) (string, error) {
	path, err := r.Roots.Mount(ctx, s, template)
	return path, r.in.done("roots.mount", err)
}

func (r roots) Unmount(id int) error { return r.in.done("roots.unmount", r.Roots.Unmount(id)) }
func (r roots) Reset(id int) error   { return r.in.done("roots.reset", r.Roots.Reset(id)) }
func (r roots) Remove(id int) error  { return r.in.done("roots.remove", r.Roots.Remove(id)) }

type network struct {
	runtime.Network
	in *Injector
}

func (n network) Plug(id, pid int, nics []runtime.NIC, hold bool) error {
	return n.in.done("network.plug", n.Network.Plug(id, pid, nics, hold))
}

func (n network) Open(id int, nics []runtime.NIC) error {
	return n.in.done("network.open", n.Network.Open(id, nics))
}

func (n network) Close(id int) error  { return n.in.done("network.close", n.Network.Close(id)) }
func (n network) Unplug(id int) error { return n.in.done("network.unplug", n.Network.Unplug(id)) }

type cgroups struct {
	runtime.Cgroups
	in *Injector
}

func (c cgroups) Create(id int, l runtime.Limits, uid uint32) error {
	return c.in.done("cgroup.create", c.Cgroups.Create(id, l, uid))
}

func (c cgroups) Update(id int, l runtime.Limits) error {
	return c.in.done("cgroup.update", c.Cgroups.Update(id, l))
}

func (c cgroups) Delegate(id int, uid uint32) error {
	return c.in.done("cgroup.delegate", c.Cgroups.Delegate(id, uid))
}

func (c cgroups) Hold(id int) error { return c.in.done("cgroup.hold", c.Cgroups.Hold(id)) }

func (c cgroups) Freeze(ctx context.Context, id int) error {
	return c.in.done("cgroup.freeze", c.Cgroups.Freeze(ctx, id))
}

func (c cgroups) Thaw(ctx context.Context, id int) error {
	return c.in.done("cgroup.thaw", c.Cgroups.Thaw(ctx, id))
}

func (c cgroups) KillAll(ctx context.Context, id int) error {
	return c.in.done("cgroup.kill", c.Cgroups.KillAll(ctx, id))
}

func (c cgroups) Remove(id int) error { return c.in.done("cgroup.remove", c.Cgroups.Remove(id)) }

type oci struct {
	runtime.OCI
	in   *Injector
	mark *mark
}

func (o oci) Create(ctx context.Context, s runtime.Spec, root, cgroup string) (int, error) {
	if err := o.in.At("runc.creating"); err != nil {
		return 0, err
	}
	pid, err := o.OCI.Create(ctx, s, root, cgroup)
	if err == nil {
		err = o.mark.put(root, s)
	}
	return pid, o.in.done("runc.create", err)
}

func (o oci) Start(ctx context.Context, id int) error {
	if err := o.in.At("runc.starting"); err != nil {
		return err
	}
	return o.in.done("runc.start", o.OCI.Start(ctx, id))
}

func (o oci) Forget(id int) error { return o.in.done("runc.forget", o.OCI.Forget(id)) }

func (o oci) Prepare(ctx context.Context, s runtime.Spec, root, cgroup string) error {
	if err := o.in.At("runc.preparing"); err != nil {
		return err
	}
	o.mark.expect(s)
	return o.in.done("runc.prepare", o.OCI.Prepare(ctx, s, root, cgroup))
}

func (o oci) Adopt(id, pid int) error {
	if err := o.mark.restored(id, pid); err != nil {
		return err
	}
	return o.in.done("runc.adopt", o.OCI.Adopt(id, pid))
}
