package cluster

import (
	"slices"
)

func (c PutTemplate) apply(s *State) (any, error) {
	t := c.Template
	if err := CheckName("template", t.Name); err != nil {
		return nil, err
	}
	if err := checkDigest(t.Digest); err != nil {
		return nil, err
	}
	if t.Size < 0 {
		return nil, Refuse(ErrInvalid, "template %q cannot have a negative size", t.Name)
	}
	for _, h := range t.Hosts {
		if _, err := s.mustHost(h); err != nil {
			return nil, err
		}
	}
	if len(t.Init) == 0 {
		t.Init = []string{"/sbin/init"}
	}
	if known := s.TemplateByDigest(t.Digest); known != nil {
		t.Hosts = append(slices.Clone(t.Hosts), known.Hosts...)
	}
	t.Hosts = slices.Compact(slices.Sorted(slices.Values(t.Hosts)))
	t.Init, t.Prepared = slices.Clone(t.Init), slices.Clone(t.Prepared)

	old := s.templates[t.Name]
	put(s, &s.templates, t.Name, &t)
	if s.replaced[t.Digest] != nil {
		drop(s, &s.replaced, t.Digest)
	}
	if old != nil {
		s.keepReplaced(old)
	}
	s.setCopies(t.Digest, t.Hosts)
	return s.templates[t.Name], nil
}

// keepReplaced keeps a template that lost its name while containers use it and no other name has its digest.
func (s *State) keepReplaced(t *Template) {
	if s.TemplateByDigest(t.Digest) == nil && s.usersOf(t.Digest) > 0 {
		put(s, &s.replaced, t.Digest, t)
	}
}

// setCopies makes every record of a digest tell the same hosts.
func (s *State) setCopies(digest string, hosts []string) {
	for _, m := range []*map[string]*Template{&s.templates, &s.replaced} {
		for key, t := range *m {
			if t.Digest == digest && !slices.Equal(t.Hosts, hosts) {
				n := *t
				n.Hosts = hosts
				put(s, m, key, &n)
			}
		}
	}
}

func (c TemplateOn) apply(s *State) (any, error) {
	t := s.TemplateByDigest(c.Digest)
	if t == nil {
		return nil, Refuse(ErrNotFound, "there is no template with digest %q; 'vzcluster template ls' shows the templates", c.Digest)
	}
	if _, err := s.mustHost(c.Host); err != nil {
		return nil, err
	}
	if !slices.Contains(t.Hosts, c.Host) {
		s.setCopies(c.Digest, slices.Sorted(slices.Values(append(slices.Clone(t.Hosts), c.Host))))
	}
	return s.TemplateByDigest(c.Digest), nil
}

func (c TemplateOff) apply(s *State) (any, error) {
	if err := s.MayRemoveCopy(c.Digest, c.Host); err != nil {
		return nil, err
	}
	if t := s.TemplateByDigest(c.Digest); t != nil {
		s.setCopies(c.Digest, slices.DeleteFunc(slices.Clone(t.Hosts), func(h string) bool { return h == c.Host }))
	}
	return nil, nil
}

// MayRemoveCopy says in a sentence why a host's copy of a template must stay, nil when it may go: nothing on the host, in
// its trash, in snapshots or on the way to it lies on it, and another host has it too or nobody knows it.
func (s *State) MayRemoveCopy(digest, host string) error {
	for _, ct := range s.On(host) {
		if slices.Contains(ct.digests(), digest) {
			return Refuse(ErrConflict, "used by %s", ct.Ref())
		}
	}
	for _, op := range s.Operations() {
		if op.Final() {
			continue
		}
		ct := s.containers.get(op.Container)
		if op.Kind == OpMigrate && (op.To == host || op.From == host) && ct != nil && slices.Contains(ct.digests(), digest) {
			return Refuse(ErrConflict, "%s moves between %s and %s", ct.Ref(), op.From, op.To)
		}
		if op.Task != nil && op.Task.Digest == digest && op.From == host {
			return Refuse(ErrConflict, "an operation needs it: %s", op.ID)
		}
	}
	if t := s.TemplateByDigest(digest); t != nil && !slices.ContainsFunc(t.Hosts, func(h string) bool { return h != host }) {
		return Refuse(ErrConflict, "the last copy of %s", t.Name)
	}
	return nil
}

func (c DropTemplate) apply(s *State) (any, error) {
	t := s.templates[c.Name]
	if t == nil {
		return nil, Refuse(ErrNotFound, "there is no template %q; 'vzcluster template ls' shows the templates", c.Name)
	}
	drop(s, &s.templates, c.Name)
	if n := s.usersOf(t.Digest); n > 0 && s.TemplateByDigest(t.Digest) == nil {
		return nil, Refuse(ErrConflict, "template %q is used by %d containers, their snapshots and those in the trash counted; destroy them first", c.Name, n)
	}
	return nil, nil
}

// usersOf counts the containers that were made from a digest, or have a snapshot that was.
func (s *State) usersOf(digest string) (n int) {
	n, _ = s.containers.digests.get([]byte(digest))
	return n
}

// dropUnused forgets a digest whose name has moved on when nothing uses it any more.
func (s *State) dropUnused(digest string) {
	if s.replaced[digest] != nil && s.usersOf(digest) == 0 {
		drop(s, &s.replaced, digest)
	}
}
