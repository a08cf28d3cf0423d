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

func (c DropTemplate) apply(s *State) (any, error) {
	t := s.templates[c.Name]
	if t == nil {
		return nil, Refuse(ErrNotFound, "there is no template %q; 'vzcluster template ls' shows the templates", c.Name)
	}
	drop(s, &s.templates, c.Name)
	if n := s.usersOf(t.Digest); n > 0 && s.TemplateByDigest(t.Digest) == nil {
		return nil, Refuse(ErrConflict, "template %q is used by %d containers; destroy them first", c.Name, n)
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
