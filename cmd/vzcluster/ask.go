package main

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
)

// ask puts a question that is answered by y or yes on the terminal; anything else is an error that ends the command.
func (e *env) ask(format string, args ...any) error {
	fmt.Fprintf(e.stderr, format+" [y/N] ", args...)
	answer, err := bufio.NewReader(e.stdin).ReadString('\n')
	if err != nil {
		e.progress("")
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return api.Errorf(api.CodeFailed, "", "nothing was done")
}
