package vzctl

import (
	"bufio"
	"embed"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// samples are the configurations that `create --config` and `set --applyconfig` know without a file of the machine.
//
//go:embed samples/*.conf-sample
var samples embed.FS

// sampleDir is where OpenVZ keeps configurations; one there goes before ours.
const sampleDir = "/etc/vz/conf"

// readSample reads a sample configuration by name, as vswap-512m.
func readSample(name string) (params, error) {
	file := "ve-" + name + ".conf-sample"
	if !filepath.IsLocal(file) || strings.ContainsRune(name, '/') {
		return params{}, fail(codeApplyConfig, "%s is not the name of a sample configuration", name)
	}
	data, err := os.ReadFile(filepath.Join(sampleDir, file))
	if err != nil {
		data, err = samples.ReadFile("samples/" + file)
	}
	if err != nil {
		return params{}, fail(codeApplyConfig, "Sample config file not found: %s; there are %s", file, strings.Join(sampleNames(), ", "))
	}
	p, err := readConfig(string(data))
	if err != nil {
		return p, fail(codeApplyConfig, "%s: %v", file, err)
	}
	return p, nil
}

func sampleNames() []string {
	var names []string
	files, _ := fs.Glob(samples, "samples/*")
	for _, f := range files {
		names = append(names, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "ve-"), ".conf-sample"))
	}
	return names
}

// readConfig reads a configuration of a container, KEY="value" lines. Keys that mean nothing here are noted, unknown
// ones too.
func readConfig(content string) (params, error) {
	var p params
	known := map[string]parameter{}
	for _, q := range parameters() {
		key := q.key
		if key == "" {
			key = strings.ToUpper(q.name)
		}
		known[key] = q
	}
	lines := bufio.NewScanner(strings.NewReader(content))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return p, fail(codeValue, "line %d is no KEY=\"value\": %s", n, line)
		}
		q, ok := known[key]
		if !ok {
			p.notes = append(p.notes, "Warning: "+key+" is ignored: it is unknown here")
			continue
		}
		if value = strings.Trim(value, `"'`); unlimited(upper(value)) {
			continue // as if it were not said
		}
		if err := q.set(&p, value); err != nil {
			return p, fail(exitOf(err, codeValue), "line %d, %s: %v", n, key, err)
		}
	}
	return p, lines.Err()
}
