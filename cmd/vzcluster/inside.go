package main

import (
	"io"
	"os"
	"strings"

	"github.com/GehirnInc/crypt/sha512_crypt"
	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

// insideFlags are about files inside, which only the container keeps.
func insideFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "password", Usage: "`USER:PASSWORD` of a user inside, - reads such lines from the standard input; only a hash leaves this machine"},
		&cli.StringSliceFlag{Name: "ssh-key", Usage: "let the keys in `USER:FILE` log in as that user, beside those that may already"},
		&cli.StringFlag{Name: "timezone", Usage: "`ZONE` inside, for example Europe/Berlin"},
	}
}

// insideRequest reads them. Passwords are hashed here; any is false when there is nothing to do.
func (e *env) insideRequest(c *cli.Context) (r api.InsideRequest, any bool, err error) {
	r.TimeZone = c.String("timezone")
	if c.IsSet("timezone") && r.TimeZone == "" {
		return r, false, usagef(c, "timezone: it cannot be empty")
	}
	var lines []string
	for _, word := range c.StringSlice("password") {
		if word != "-" {
			lines = append(lines, word)
			continue
		}
		b, err := io.ReadAll(io.LimitReader(e.stdin, 1<<20))
		if err != nil {
			return r, false, usagef(c, "password: the standard input cannot be read: %v", err)
		}
		lines = append(lines, strings.Split(strings.TrimSpace(string(b)), "\n")...)
	}
	for _, line := range lines {
		user, password, ok := strings.Cut(line, ":")
		if !ok || user == "" || password == "" {
			return r, false, usagef(c, "password: write USER:PASSWORD") // what was written is not repeated
		}
		hash, err := hashPassword(password)
		if err != nil {
			return r, false, api.Errorf(api.CodeFailed, "", "the password cannot be hashed: %v", err)
		}
		if r.Passwords == nil {
			r.Passwords = map[string]string{}
		}
		r.Passwords[user] = hash
	}
	for _, word := range c.StringSlice("ssh-key") {
		user, file, ok := strings.Cut(word, ":")
		if !ok || user == "" || file == "" {
			return r, false, usagef(c, "ssh-key: %s is not USER:FILE", orNothing(word))
		}
		keys, err := os.ReadFile(file)
		if err != nil {
			return r, false, usagef(c, "ssh-key: %v", err)
		}
		if r.Keys == nil {
			r.Keys = map[string]string{}
		}
		r.Keys[user] += string(keys) + "\n"
	}
	return r, len(r.Passwords)+len(r.Keys) > 0 || r.TimeZone != "", nil
}

// hashPassword makes of a password what /etc/shadow has.
func hashPassword(password string) (string, error) {
	return sha512_crypt.New().Generate([]byte(password), nil)
}
