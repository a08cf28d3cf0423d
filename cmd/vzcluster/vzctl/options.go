package vzctl

import (
	"strings"
)

// option is one option of a command.
type option struct {
	name  string // without dashes; one letter: a short one
	short byte   // another name, 0: none
	value bool   // it takes a value
	set   func(v string) error
}

// parse reads options and arguments in any order, as getopt_long does: --name value, --name=value, -n value, -nvalue.
// An option may be shortened as long as it stays clear which is meant. It returns the arguments.
func parse(args []string, options []option) (rest []string, err error) {
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		switch {
		case word == "--":
			return append(rest, args...), nil
		case len(word) < 2 || word[0] != '-':
			rest = append(rest, word)
		case word[1] == '-':
			name, value, has := strings.Cut(word[2:], "=")
			o, err := long(options, name)
			if err != nil {
				return nil, err
			}
			if args, err = take(o, "--"+o.name, value, has, args); err != nil {
				return nil, err
			}
		default:
			if args, err = shorts(options, word[1:], args); err != nil {
				return nil, err
			}
		}
	}
	return rest, nil
}

// shorts reads the letters behind one dash: -aH, -o field, -ofield.
func shorts(options []option, letters string, args []string) ([]string, error) {
	for i := range len(letters) {
		o := short(options, letters[i])
		if o == nil {
			return nil, fail(codeSyntax, "Invalid option -%c", letters[i])
		}
		rest := letters[i+1:]
		if o.value && rest != "" {
			return args, o.set(strings.TrimPrefix(rest, "="))
		}
		var err error
		if args, err = take(o, "-"+letters[i:i+1], "", false, args); err != nil || o.value {
			return args, err
		}
	}
	return args, nil
}

func short(options []option, letter byte) *option {
	for i := range options {
		if o := &options[i]; o.short == letter || o.name == string(letter) {
			return o
		}
	}
	return nil
}

func long(options []option, name string) (*option, error) {
	var found *option
	for i := range options {
		o := &options[i]
		switch {
		case o.name == name:
			return o, nil
		case name == "" || len(o.name) < 2 || !strings.HasPrefix(o.name, name):
		case found != nil:
			return nil, fail(codeSyntax, "Invalid option --%s: it could be --%s or --%s", name, found.name, o.name)
		default:
			found = o
		}
	}
	if found == nil {
		return nil, fail(codeSyntax, "Invalid option --%s", name)
	}
	return found, nil
}

// take gives an option its value and returns the arguments that are left.
func take(o *option, word, value string, has bool, args []string) ([]string, error) {
	switch {
	case !o.value && has:
		return args, fail(codeSyntax, "Option %s takes no value", word)
	case o.value && !has && len(args) == 0:
		return args, fail(codeSyntax, "Option %s requires an argument", word)
	case o.value && !has:
		value, args = args[0], args[1:]
	}
	if err := o.set(value); err != nil {
		return args, fail(exitOf(err, codeValue), "Bad parameter for %s: %v", word, err)
	}
	return args, nil
}

// flag is an option without a value.
func flag(name string, to *bool) option {
	return option{name: name, set: func(string) error { *to = true; return nil }}
}

// text is an option with a value that is taken as it is.
func text(name string, to *string) option {
	return option{name: name, value: true, set: func(v string) error { *to = v; return nil }}
}
