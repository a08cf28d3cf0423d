# `make` lists the targets. Linters and runc are tools of go.mod, so their versions are pinned there.

# sudo's PATH does not have Go's usual place.
GO ?= $(shell command -v go || ls /usr/local/go/bin/go 2>/dev/null)
RUNC = github.com/opencontainers/runc

.DEFAULT_GOAL := help
.PHONY: help setup unsetup build check test test-crash test-plans test-vm demo bench bench-migrate bench-scheduler bench-runtime clean need-go

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install what vzcluster needs on this host (needs root; silent when there is nothing to do)
	@sh cmd/vzcluster/setup.sh install

unsetup: ## take away all that setup installed or changed (needs root)
	@sh cmd/vzcluster/setup.sh remove

build: need-go ## build bin/vzcluster, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/vzcluster ./cmd/vzcluster

check: need-go ## vet, staticcheck, formatting, import rules
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@bad=$$($(GO) tool gofumpt -l .) || exit 1; if [ -n "$$bad" ]; then \
		echo "not formatted, run 'go tool gofumpt -w' on:"; echo "$$bad"; exit 1; fi
	$(GO) test -run TestArchitecture ./cmd/vzcluster/
	@sh -n cmd/vzcluster/setup.sh
	@v=$$($(GO) list -m -f '{{.Version}}' $(RUNC)) && grep -qx "RUNC_VERSION=$$v" cmd/vzcluster/setup.sh || { \
		echo "setup.sh must say RUNC_VERSION=$$v, as go.mod does"; exit 1; }

test: setup build ## all tests, end to end ones too (needs root)
	$(GO) test -count=1 -timeout 40m -p 1 ./...

test-crash: setup build ## every fault at every step of a migration, 90 minutes (needs root)
	VZCLUSTER_CRASH=all VZCLUSTER_CRASH_LABS=$${VZCLUSTER_CRASH_LABS:-2} VZCLUSTER_CRASH_DIR=$(CURDIR)/out/crash \
		$(GO) test -count=1 -timeout 100m -v -run '^(TestCriuIsKilledWhileItDumps|TestProgramsAreKilledAtWork|TestPartitionsAtEachStage|TestPowerIsLostDuringMigration|TestSystemdContainerUnderFaults|TestCrashMatrix)$$' ./agent/e2e/

test-plans: setup build ## every plan with its leader killed in every role, about ten minutes (needs root)
	VZCLUSTER_PLANS=all $(GO) test -count=1 -v -timeout 40m -run '^TestPlansWithEveryLeader$$' ./agent/e2e/

test-vm: setup build ## the tests between QEMU machines, all of them (needs root and qemu-system-x86)
	VZCLUSTER_TEST_VM=long $(GO) test -count=1 -v -timeout 60m ./agent/e2e/vm/

demo: setup build ## a cluster on this machine and a live migration in it (needs root)
	bin/vzcluster demo

bench: setup build ## the benchmarks (needs root)
	$(GO) run ./cmd/vzbench

bench-migrate: setup build ## the benchmarks of live migration, about an hour (needs root)
	$(GO) run ./cmd/vzbench -set migrate -limit 2h

bench-scheduler: setup build ## the benchmarks of the scheduler; VZCLUSTER_TRACES is a folder of public traces (needs root)
	$(GO) run ./cmd/vzbench -set scheduler -limit 30m

bench-runtime: setup build ## the benchmarks of containers on one host; -case idle and hundred-systemd are long (needs root)
	$(GO) run ./cmd/vzbench -set runtime -quick -limit 30m

clean: ## remove what was built
	rm -rf bin out

need-go:
	@[ -n "$(GO)" ] || { echo "Go is missing: install Go 1.26 or newer from https://go.dev/dl." >&2; exit 1; }
