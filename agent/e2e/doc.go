// Package e2e holds the end-to-end tests: a lab with real agents, runc and CRIU, driven by the real command line as a
// user drives it. It owns no code of the product.
//
// The one rule for who adds a test: most tests share one lab, so a test makes containers of its own, and what it
// changes of the hosts it puts back.
package e2e
