package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent"
)

const module = "github.com/vzcluster/vzcluster"

// goFile is one non-test file, as far as the architecture is concerned.
type goFile struct {
	dir, file string // relative to the repository, with slashes
	imports   []string
	doc       string // package comment
	inits     []token.Position
	exits     []token.Position // os.Exit, log.Fatal...
}

// parseTree reads every non-test Go file below root. Hidden folders and testdata are left out.
func parseTree(root string) ([]goFile, error) {
	var all []goFile
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (strings.HasPrefix(name, ".") || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		dir, file := ".", rel
		if i := strings.LastIndexByte(rel, '/'); i >= 0 {
			dir, file = rel[:i], rel[i+1:]
		}
		all = append(all, readGo(fset, f, dir, file))
		return nil
	})
	return all, err
}

func readGo(fset *token.FileSet, f *ast.File, dir, file string) goFile {
	s := goFile{dir: dir, file: file, doc: f.Doc.Text()}
	for _, i := range f.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		s.imports = append(s.imports, p)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				s.inits = append(s.inits, fset.Position(n.Pos()))
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && (x.Name == "os" && n.Sel.Name == "Exit" || x.Name == "log" && strings.HasPrefix(n.Sel.Name, "Fatal")) {
				s.exits = append(s.exits, fset.Position(n.Pos()))
			}
		}
		return true
	})
	return s
}

// rule says what the packages of a folder may import of ours, and why no more.
type rule struct {
	dir  string   // the package, or with /... all below it
	may  []string // packages of ours; with /... all below too
	why  string
	skip []string // files that are free, as patterns
}

// wiring are the files of cmd/vzcluster that put adapters together; all others are a client's.
func wiring() []string {
	return []string{"agent.go", "engine.go", "lab.go", "labvm.go", "demo*.go", "doctor.go", "simulate.go", "clienttls.go", "template.go", "memory_guard.go"}
}

// rules: the first that names a folder counts.
func rules() []rule {
	return []rule{
		{"cluster", nil, "the replicated state must run anywhere, so it knows nothing of a host", nil},
		{"cluster/...", []string{"cluster"}, "an adapter knows its contract and no other adapter: each can be exchanged", nil},
		{"runtime", nil, "the contracts of a host are a leaf: they know nothing of the cluster", nil},
		{"runtime/image/imagetest", nil, "test helpers know nothing of what they test", nil},
		{"runtime/...", []string{"runtime"}, "an adapter knows its contract and no other adapter; runtime/engine takes interfaces of runtime", nil},
		{"scheduler/simulate", []string{"cluster", "scheduler"}, "a simulation decides nothing of its own", nil},
		{"scheduler/...", []string{"cluster"}, "a decision depends on a snapshot of the state and on nothing else", nil},
		{"migrate", []string{"cluster", "runtime", "migrate/transfer", "migrate/memory"}, "migrations see kernel and cluster only through contracts", nil},
		{"migrate/...", []string{"runtime"}, "the copying of layers is of use to anyone", nil},
		{"agent/api", []string{"cluster"}, "the client must be small and free of any host's adapters", nil},
		{"agent/lab/...", []string{"..."}, "the lab wires whole hosts", nil},
		{"agent/e2e/...", []string{"..."}, "end-to-end tests see everything", nil},
		{"agent", []string{"agent/api", "cluster/...", "scheduler/...", "migrate/...", "runtime", "runtime/image"}, "the agent gets its host as interfaces, so that tests can give it another", nil},
		{"cmd/vzcluster/vzctl", []string{"agent/api", "cluster"}, "it translates old commands into requests to an agent", nil},
		{"cmd/vzcluster", []string{"agent/api", "cluster", "cmd/vzcluster/vzctl"}, "client commands talk to an agent; what they cannot do over the API they cannot do", wiring()},
		{"cmd/...", []string{"..."}, "programs wire", nil},
	}
}

// within reports whether a package is named by a pattern: itself, or with /... it and all below.
func within(pkg, pattern string) bool {
	if pattern == "..." {
		return true
	}
	top, below := strings.CutSuffix(pattern, "/...")
	return pkg == top || below && strings.HasPrefix(pkg, top+"/")
}

// importFaults checks the directions between our packages.
func importFaults(all []goFile) []string {
	var faults []string
	for _, s := range all {
		i := slices.IndexFunc(rules(), func(r rule) bool { return within(s.dir, r.dir) })
		if i < 0 {
			faults = append(faults, fmt.Sprintf("%s has no rule: say in this test what it may import, and why", s.dir))
			continue
		}
		r := rules()[i]
		if slices.ContainsFunc(r.skip, func(pattern string) bool { ok, _ := filepath.Match(pattern, s.file); return ok }) {
			continue
		}
		for _, p := range s.imports {
			ours, is := strings.CutPrefix(p, module+"/")
			if is && !slices.ContainsFunc(r.may, func(m string) bool { return within(ours, m) }) {
				faults = append(faults, fmt.Sprintf("%s/%s imports %s, which %s must not: %s", s.dir, s.file, ours, r.dir, r.why))
			}
		}
	}
	return faults
}

// confined are packages of others that few of ours may import, so that they can be exchanged in one place.
func confined() map[string][]string {
	return map[string][]string{
		"github.com/urfave/cli":            {"cmd/..."},
		"github.com/hashicorp/raft":        {"cluster/raftstore", "cmd/vzbench", "agent"}, // agent: only raft.StreamLayer; vzbench: the bare voters that ours are held against
		"github.com/hashicorp/raft-boltdb": {"cluster/raftstore", "cmd/vzbench"},
		"github.com/hashicorp/go-hclog":    {"cluster/raftstore"},
		"github.com/hashicorp/memberlist":  {"cluster/gossip"},
		"github.com/containerd/cgroups":    {"runtime/cgroup"},
		"github.com/checkpoint-restore":    {"runtime/criu"},
	}
}

func confinementFaults(all []goFile) []string {
	var faults []string
	for _, s := range all {
		for _, p := range s.imports {
			for lib, where := range confined() {
				if (p == lib || strings.HasPrefix(p, lib+"/")) && !slices.ContainsFunc(where, func(w string) bool { return within(s.dir, w) }) {
					faults = append(faults, fmt.Sprintf("%s/%s imports %s, which only %s may: it must be exchangeable in one place", s.dir, s.file, p, strings.Join(where, " and ")))
				}
				if lib == "github.com/hashicorp/raft" && p == lib && s.dir == "agent" && s.file != "raftlayer.go" {
					faults = append(faults, fmt.Sprintf("agent/%s imports %s, which only agent/raftlayer.go may, for its StreamLayer", s.file, p))
				}
			}
		}
	}
	return faults
}

// docFaults wants every package to say what it owns and what a caller must know.
func docFaults(all []goFile) []string {
	docs := map[string]string{}
	for _, s := range all {
		docs[s.dir] += s.doc
	}
	var faults []string
	for dir, doc := range docs {
		text := strings.Join(strings.Fields(doc), " ")
		switch {
		case text == "":
			faults = append(faults, dir+" has no package comment: it must say what the package owns and the one rule for callers")
		case strings.Count(text+" ", ". ") < 2:
			faults = append(faults, dir+" has a package comment of less than two sentences: it must say what the package owns and the one rule for callers")
		case !strings.Contains(text, "rule") && !strings.HasPrefix(dir, "cmd/"): // programs have no callers
			faults = append(faults, dir+`: the package comment names no rule; write "The one rule for callers: ..."`)
		}
	}
	slices.Sort(faults)
	return faults
}

// behaviourFaults wants no hidden starts and ends.
func behaviourFaults(all []goFile) []string {
	var faults []string
	for _, s := range all {
		for _, at := range s.inits {
			faults = append(faults, fmt.Sprintf("%s: init runs in every program and test that imports the package; call something instead", at))
		}
		if within(s.dir, "cmd/...") {
			continue
		}
		for _, at := range s.exits {
			faults = append(faults, fmt.Sprintf("%s: only a program ends itself; return an error, or deferred clean-up is skipped", at))
		}
	}
	return faults
}

// folderFaults wants exactly the top-level folders of docs/architecture.md, not counting what .gitignore names.
func folderFaults(root string) ([]string, error) {
	want := []string{"agent", "cluster", "cmd", "docs", "migrate", "runtime", "scheduler"}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var faults, have []string
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") || e.Name() == "bin" || e.Name() == "out" {
			continue
		}
		have = append(have, e.Name())
		if !slices.Contains(want, e.Name()) {
			faults = append(faults, "the top-level folder "+e.Name()+" is not in docs/architecture.md: a reader finds things by these names")
		}
	}
	for _, w := range want {
		if !slices.Contains(have, w) {
			faults = append(faults, "the top-level folder "+w+" is missing: docs/architecture.md names it")
		}
	}
	return faults, nil
}

const repository = "../.."

func tree(t *testing.T) []goFile {
	t.Helper()
	all, err := parseTree(repository)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 50 {
		t.Fatalf("only %d files were found", len(all))
	}
	return all
}

func report(t *testing.T, faults []string) {
	t.Helper()
	for _, f := range faults {
		t.Error(f)
	}
}

func TestArchitectureImports(t *testing.T)     { report(t, importFaults(tree(t))) }
func TestArchitectureConfinement(t *testing.T) { report(t, confinementFaults(tree(t))) }
func TestArchitectureDocs(t *testing.T)        { report(t, docFaults(tree(t))) }
func TestArchitectureBehaviour(t *testing.T)   { report(t, behaviourFaults(tree(t))) }

func TestArchitectureFolders(t *testing.T) {
	faults, err := folderFaults(repository)
	if err != nil {
		t.Fatal(err)
	}
	report(t, faults)
}

// TestArchitectureCanFail breaks each rule in a tree of its own and wants to hear of it, and of nothing else.
func TestArchitectureCanFail(t *testing.T) {
	const fine = "// Package x owns x. It owns nothing else.\n//\n// The one rule for callers: none.\npackage x\n"
	ours := func(p string) string { return fmt.Sprintf("\nimport _ %q\n", module+"/"+p) }
	for what, c := range map[string]struct{ file, text, want string }{
		"nothing":                         {"cluster/x.go", fine, ""},
		"adapter on its contract":         {"cluster/gossip/x.go", fine + ours("cluster"), ""},
		"cluster knows a host":            {"cluster/x.go", fine + ours("runtime"), "cluster/x.go imports runtime"},
		"runtime knows the cluster":       {"runtime/x.go", fine + ours("cluster"), "runtime/x.go imports cluster"},
		"adapters know each other":        {"runtime/runc/x.go", fine + ours("runtime/criu"), "imports runtime/criu"},
		"cluster's adapters do":           {"cluster/gossip/x.go", fine + ours("cluster/trust"), "imports cluster/trust"},
		"engine knows an adapter":         {"runtime/engine/x.go", fine + ours("runtime/network"), "imports runtime/network"},
		"scheduler knows the agent":       {"scheduler/x.go", fine + ours("agent"), "scheduler/x.go imports agent"},
		"migrate knows an adapter":        {"migrate/x.go", fine + ours("runtime/engine"), "imports runtime/engine"},
		"agent knows an adapter":          {"agent/x.go", fine + ours("runtime/runc"), "imports runtime/runc"},
		"api knows trust":                 {"agent/api/x.go", fine + ours("cluster/trust"), "imports cluster/trust"},
		"a client command wires":          {"cmd/vzcluster/ls.go", fine + ours("agent"), "cmd/vzcluster/ls.go imports agent"},
		"the agent command wires":         {"cmd/vzcluster/agent.go", fine + ours("agent"), ""},
		"a package without a rule":        {"extra/x.go", fine, "extra has no rule"},
		"cli outside of cmd":              {"agent/x.go", fine + "\nimport _ \"github.com/urfave/cli/v2\"\n", "only cmd/... may"},
		"raft in the scheduler":           {"scheduler/x.go", fine + "\nimport _ \"github.com/hashicorp/raft\"\n", "only cluster/raftstore"},
		"raft elsewhere in the agent":     {"agent/x.go", fine + "\nimport _ \"github.com/hashicorp/raft\"\n", "only agent/raftlayer.go"},
		"raft's layer in the agent":       {"agent/raftlayer.go", fine + "\nimport _ \"github.com/hashicorp/raft\"\n", ""},
		"memberlist in trust":             {"cluster/trust/x.go", fine + "\nimport _ \"github.com/hashicorp/memberlist\"\n", "only cluster/gossip"},
		"a package without a comment":     {"cluster/x.go", "package x\n", "no package comment"},
		"a comment of one sentence":       {"cluster/x.go", "// Package x is the rule for callers.\npackage x\n", "less than two sentences"},
		"a comment without a rule":        {"cluster/x.go", "// Package x owns x. It owns nothing else.\npackage x\n", "names no rule"},
		"a program without a rule":        {"cmd/x/x.go", "// Command x does x. It takes no arguments.\npackage main\n", ""},
		"init":                            {"cluster/x.go", fine + "\nfunc init() {}\n", "init runs in every program"},
		"a method init":                   {"cluster/x.go", fine + "\ntype T struct{}\n\nfunc (T) init() {}\n", ""},
		"exit in a package":               {"agent/x.go", fine + "\nimport \"os\"\n\nfunc F() { os.Exit(1) }\n", "only a program ends itself"},
		"fatal in a package":              {"agent/x.go", fine + "\nimport \"log\"\n\nfunc F() { log.Fatalf(\"\") }\n", "only a program ends itself"},
		"exit in a program":               {"cmd/vzcluster/main.go", fine + "\nimport \"os\"\n\nfunc F() { os.Exit(1) }\n", ""},
		"tests may import what they like": {"scheduler/x_test.go", fine + ours("agent"), ""},
	} {
		root := t.TempDir()
		file := filepath.Join(root, filepath.FromSlash(c.file))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := parseTree(root)
		if err != nil {
			t.Fatal(err)
		}
		got := slices.Concat(importFaults(all), confinementFaults(all), docFaults(all), behaviourFaults(all))
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%s: got %q, want %q", what, got, c.want)
		}
	}
}

// TestArchitectureReferences wants every `file.go:Name` of the documents to exist.
func TestArchitectureReferences(t *testing.T) {
	documents, err := filepath.Glob(repository + "/docs/*.md")
	if err != nil || len(documents) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	seen := 0
	for _, d := range append(documents, repository+"/README.md") {
		text, err := os.ReadFile(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("`([a-z0-9_/]+\\.go)(?::([A-Za-z]+))?`").FindAllStringSubmatch(string(text), -1) {
			seen++
			code, err := os.ReadFile(filepath.Join(repository, m[1]))
			if err != nil {
				t.Errorf("%s: %s does not exist", filepath.Base(d), m[1])
			} else if m[2] != "" && !regexp.MustCompile(`(?m)^(func (\([^)]*\) )?|func \([^)]*\b|type )`+m[2]+`\b`).Match(code) {
				t.Errorf("%s: there is no %s in %s", filepath.Base(d), m[2], m[1])
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d references were found", seen)
	}
}

func TestArchitectureConfiguration(t *testing.T) {
	text, err := os.ReadFile(repository + "/docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), agent.ExampleConfig()) {
		t.Error("docs/configuration.md does not show what `vzcluster agent --print-config` prints; copy it there")
	}
}

func TestArchitectureFoldersCanFail(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"agent", "cluster", "cmd", "docs", "migrate", "runtime", "util", "bin", ".git"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	faults, err := folderFaults(root)
	if err != nil || len(faults) != 2 || !strings.Contains(faults[0], "util is not in") || !strings.Contains(faults[1], "scheduler is missing") {
		t.Errorf("%v, %q", err, faults)
	}
}
