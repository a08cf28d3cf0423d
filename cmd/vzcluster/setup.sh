#!/bin/sh
# Set-up of one Debian host for vzcluster: `vzcluster setup` (this file is embedded in the binary)
# and `make setup` both run it.
#
#   setup.sh [install [--post-copy]] bring the host up to what vzcluster needs
#   setup.sh remove [--keep-packages] take all of it away again
#   setup.sh list                    show what is there, what is missing and who installed it
#
# Rules it keeps:
#   - Idempotent, asks nothing, silent when nothing is to do, one line for each change.
#   - It only ever adds packages. Nothing that is installed is upgraded or removed, least of all libc.
#   - Everything else lives in one directory, the cache, together with the notes that `remove` needs.
#
#   VZCLUSTER_CACHE   the cache directory, if it is not /var/cache/vzcluster
# Lists of packages are split into words on purpose, and apt has a $(...) syntax of its own:
# shellcheck disable=SC2046,SC2086,SC2016
set -eu
umask 022
export LC_ALL=C

CACHE=${VZCLUSTER_CACHE:-/var/cache/vzcluster}
MARKER=$CACHE/.vzcluster-cache       # says that the directory is ours: `remove` deletes no other
INSTALLED=$CACHE/packages.installed  # packages that this set-up added, one a line
BEFORE=$CACHE/sysctl.before          # "key value", as it was before the first change
LOG=$CACHE/setup.log                 # output of the last apt, dpkg and go commands
CRIU=$CACHE/bin/criu
LXCFS=$CACHE/bin/lxcfs
RUNC=$CACHE/bin/runc

# nftables, iproute2: networks and the packet gate of a migration. mmdebstrap, debian-archive-keyring, xz, zstd, tar:
# templates. gcc, libc6-dev, pkg-config, libseccomp-dev: the build of runc. patchelf: the private CRIU. busybox-static,
# redis-tools, openssh-client: workloads of demo and tests. libcap2-bin: capabilities shown by `doctor` and the tests.
# btrfs-progs, e2fsprogs: the storage drivers btrfs and image.
PACKAGES='nftables iproute2 btrfs-progs e2fsprogs mmdebstrap libseccomp-dev pkg-config gcc libc6-dev xz-utils zstd openssh-client redis-tools
busybox-static patchelf ca-certificates debian-archive-keyring libcap2-bin tar'

# CRIU 4.2 is the first that can dump TCP sockets on Linux 6.16 and later.
CRIU_MIN=4.2
# runc when no checkout's go.mod says which (`make check` compares the two).
RUNC_VERSION=v1.5.2
MODULE=github.com/vzcluster/vzcluster

# key value rule: `min` raises what is lower, `set` sets exactly.
#   inotify  counted over all containers' user namespaces together; one systemd container takes 6 instances of 128
#   keys     every container has a session keyring, each of its services one more
#   pipe     post-copy moves pages through pipes larger than 1 MiB, without CAP_SYS_RESOURCE if need be
SYSCTLS='fs.inotify.max_user_instances 8192 min
fs.inotify.max_user_watches 1048576 min
kernel.keys.maxkeys 20000 min
kernel.keys.maxbytes 2000000 min
fs.pipe-max-size 4194304 min
fs.pipe-user-pages-soft 0 set'

# Only when it is asked for: it lets every user of this host delay the kernel where it reads or writes the user's memory, which makes
# some faults of kernels easier to use.
POST_COPY='vm.unprivileged_userfaultfd 1 set'

say()  { printf 'setup: %s\n' "$*"; }
warn() { printf 'setup: %s\n' "$*" >&2; }
die()  { warn "$*"; exit 1; }

# Runs a command with its output in the log, and shows the log's end when it fails.
# File descriptor 9 is the lock: closed, lest something that the command leaves behind keep it.
quietly() {
	if "$@" >"$LOG" 2>&1 9<&-; then
		return 0
	fi
	tail -n 20 "$LOG" >&2
	return 1
}

# version_at_least HAVE WANT
version_at_least() { dpkg --compare-versions "${1:-0}" ge "$2"; }

need_root() { [ "$(id -u)" = 0 ] || die "needs root: run it with sudo."; }

need_debian() {
	if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
		die "this is not Debian: install CRIU >= $CRIU_MIN, runc $RUNC_VERSION and these by hand:" $PACKAGES
	fi
}

# One set-up at a time. The lock is on the directory itself, so that there is no lock file to leave behind;
# `remove` may have deleted the directory that we waited for, hence the loop.
lock() {
	while :; do
		mkdir -p "$CACHE"
		exec 9<"$CACHE"
		if ! flock -n 9; then
			say "waiting for another set-up to finish"
			flock 9
		fi
		[ "$(stat -L -c %d:%i "/proc/$$/fd/9")" = "$(stat -L -c %d:%i "$CACHE" 2>/dev/null)" ] && return 0
		exec 9<&-
	done
}

# ---- Debian packages ----

# Prints those of its arguments that are (not) installed, one a line.
installed() {
	[ $# -gt 0 ] || return 0 # dpkg-query without names means all packages
	dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' || :
}
missing() {
	have=" $(installed "$@" | tr '\n' ' ')"
	for p in "$@"; do
		case $have in *" $p "*) ;; *) echo "$p" ;; esac
	done
}

install_packages() {
	want=$(missing $PACKAGES)
	[ -n "$want" ] || return 0
	want=$(printf '%s ' $want)
	want=${want% }

	# A third party's broken source must not stop us: whether the lists are good enough shows in the next step.
	say "reading the package lists (apt-get update)"
	quietly apt-get update || warn "apt-get update failed, going on with the lists there are."

	plan=$(apt-get install -s --no-install-recommends --no-upgrade $want 2>&1) ||
		die "apt cannot install $want: $(echo "$plan" | grep '^E:' | head -n 1)"
	# "Inst name [old] (new ...)" is an upgrade, "Inst name (new ...)" is not.
	touched=$(echo "$plan" | sed -n 's/^Inst \([^ ]*\) \[.*/\1/p; s/^Remv \([^ ]*\) .*/\1/p')
	[ -z "$touched" ] || die "stopped: installing $want would upgrade or remove" $touched "- do that by hand first."
	new=$(echo "$plan" | sed -n 's/^Inst \([^ ]*\) .*/\1/p')

	# Noted before it is done: if we are killed in between, `remove` looks at what is really installed.
	{ cat "$INSTALLED" 2>/dev/null || :; printf '%s\n' $new; } | sort -u >"$INSTALLED.new"
	mv "$INSTALLED.new" "$INSTALLED"
	say "installing packages:" $new
	DEBIAN_FRONTEND=noninteractive quietly apt-get install -y --no-install-recommends --no-upgrade --no-remove \
		-o DPkg::Lock::Timeout=300 $want || die "apt-get install failed, see above and $LOG."
}

# Takes away what install_packages added and nothing else: what meanwhile became a dependency of another package stays.
remove_packages() {
	[ -s "$INSTALLED" ] || return 0
	ours=$(installed $(cat "$INSTALLED"))
	kept=
	while [ -n "$ours" ]; do
		plan=$(apt-get remove -s -o APT::Get::AutomaticRemove=false $ours 2>&1) ||
			die "apt cannot remove the packages: $(echo "$plan" | grep '^E:' | head -n 1)"
		others=$(echo "$plan" | sed -n 's/^Remv \([^ ]*\) .*/\1/p' | grep -vxF "$ours" || :)
		[ -n "$others" ] || break
		# Others would go too. Keep each of ours that drags one along, and look again.
		rest=
		for p in $ours; do
			if apt-get remove -s -o APT::Get::AutomaticRemove=false "$p" 2>/dev/null |
				sed -n 's/^Remv \([^ ]*\) .*/\1/p' | grep -qxF "$others"; then
				kept="$kept $p"
			else
				rest="$rest $p"
			fi
		done
		ours=$(printf '%s\n' $rest)
	done
	[ -z "$kept" ] || say "kept, because other packages need them now:$kept"
	[ -n "$ours" ] || return 0
	say "removing packages:" $ours
	DEBIAN_FRONTEND=noninteractive quietly apt-get remove -y -o APT::Get::AutomaticRemove=false \
		-o DPkg::Lock::Timeout=300 $ours || die "apt-get remove failed, see above; the cache is left as it was."
}

# ---- CRIU ----

criu_version() { "$1" --version 2>/dev/null | sed -n 's/^Version: //p'; }

# The mirror that this host's own sources name for Debian, or Debian's default.
mirror() {
	uri=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -E '/debian/?$' | head -n 1) || :
	echo "${uri:-http://deb.debian.org/debian}"
}

# No stable Debian has a CRIU that works on current kernels, and installing sid's would pull a newer libc into the
# host. So CRIU gets a directory of its own, with its own loader and libraries, found through the executable's
# RPATH. The packages come through apt, with its signature checks, but with sources, lists, pins and cache of our
# own: the host's apt never hears of sid.
install_criu() {
	system=$(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin command -v criu) || system=
	if [ -n "$system" ] && version_at_least "$(criu_version "$system")" $CRIU_MIN; then
		[ "$(readlink "$CRIU")" != "$system" ] || return 0
		say "using the host's CRIU $(criu_version "$system"), $system"
		ln -sfn "$system" "$CRIU"
		rm -rf "$CACHE/criu"
		return 0
	fi
	if [ "$(readlink "$CRIU")" = ../criu/usr/sbin/criu ] && version_at_least "$(criu_version "$CRIU")" $CRIU_MIN; then
		return 0
	fi

	say "fetching CRIU and its libraries into $CACHE/criu (about 8 MB of packages, 20 MB of lists)"
	apt=$CACHE/apt
	rm -rf "$apt" "$CACHE/criu.new"
	mkdir -p "$apt/empty" "$apt/state/lists/partial" "$apt/cache/archives/partial"
	: >"$apt/status" # as if nothing were installed: then apt fetches everything, libc too
	# Expired Release files are normal for sid on mirrors that stand still; the signature is still verified.
	keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	for suite in trixie sid; do
		echo "deb [signed-by=$keyring check-valid-until=no] $(mirror) $suite main"
	done >"$apt/sources.list"
	# Libraries from the stable release, where they do not move; from sid only CRIU and what it needs newer.
	cat >"$apt/preferences" <<-EOF
		Package: *
		Pin: release n=trixie
		Pin-Priority: 600

		Package: criu libcompel1 libnet9 libnl-3-200
		Pin: release n=sid
		Pin-Priority: 900
	EOF
	# The host's hooks (packagekit, appstream, an image's clean-up) are about the host's lists, not about ours.
	cat >"$apt/apt.conf" <<-EOF
		#clear APT::Update::Pre-Invoke;
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
		#clear DPkg::Pre-Install-Pkgs;
		#clear Acquire::IndexTargets::deb::DEP-11;
		#clear Acquire::IndexTargets::deb::Contents-deb;
		#clear APT::Default-Release;
		Acquire::Languages "none";
		Acquire::Check-Valid-Until "false";
		APT::Get::AllowUnauthenticated "false";
		APT::Install-Recommends "false";
		Dir::State "$apt/state/";
		Dir::State::status "$apt/status";
		Dir::Cache "$apt/cache/";
		Dir::Etc::sourcelist "$apt/sources.list";
		Dir::Etc::sourceparts "$apt/empty/";
		Dir::Etc::preferences "$apt/preferences";
		Dir::Etc::preferencesparts "$apt/empty/";
	EOF
	quietly apt-get -c "$apt/apt.conf" -o APT::Update::Error-Mode=any update ||
		die "cannot read Debian's package lists from $(mirror), see above."
	if ! apt-get -c "$apt/apt.conf" install -y --download-only criu >"$LOG" 2>&1 9<&-; then
		# Once sid's CRIU needs a newer library than the stable one, everything comes from sid.
		rm "$apt/preferences"
		quietly apt-get -c "$apt/apt.conf" install -y --download-only -t sid criu || die "cannot fetch CRIU, see above."
	fi

	new=$CACHE/criu.new
	mkdir "$new"
	for deb in "$apt"/cache/archives/*.deb; do
		case $deb in
		*/criu_*) quietly dpkg-deb -x "$deb" "$new" ;;
		*) # only the libraries; their folder is /lib/TRIPLET in some packages and /usr/lib/TRIPLET in others
			mkdir -p "$apt/x"
			quietly dpkg-deb -x "$deb" "$apt/x"
			find "$apt/x" -path '*/lib/*-linux-gnu/*' ! -path '*-linux-gnu/*/*' -name '*.so*' >"$apt/libs"
			mkdir -p "$new/lib"
			while read -r lib; do cp -Pf "$lib" "$new/lib/"; done <"$apt/libs"
			rm -rf "$apt/x"
			;;
		esac || die "cannot unpack ${deb##*/}, see above."
	done
	rm -rf "$new/usr/share" "$new/etc" "$new/usr/include"
	case $(dpkg --print-architecture) in
	amd64) loader=ld-linux-x86-64.so.2 ;;
	arm64) loader=ld-linux-aarch64.so.1 ;;
	*) die "no CRIU for this machine's architecture: install CRIU >= $CRIU_MIN yourself." ;;
	esac
	version=$("$new/lib/$loader" --library-path "$new/lib" "$new/usr/sbin/criu" --version 2>/dev/null |
		sed -n 's/^Version: //p') || :
	version_at_least "$version" $CRIU_MIN ||
		die "CRIU $CRIU_MIN or newer is needed, $(mirror) has ${version:-one that does not start here}."
	# The executable only: libraries find each other by its RPATH, and patching them breaks them.
	quietly patchelf --set-interpreter "$CACHE/criu/lib/$loader" --force-rpath --set-rpath "$CACHE/criu/lib" \
		"$new/usr/sbin/criu" || die "patchelf failed on CRIU, see above."
	rm -rf "$CACHE/criu"
	mv "$new" "$CACHE/criu"
	ln -sfn ../criu/usr/sbin/criu "$CRIU"
	rm -rf "$apt"
	say "CRIU $version is in $CRIU"
}

# ---- lxcfs ----

# lxcfs shows containers their own limits in /proc. The host's own Debian has one that fits its libc; its package would
# start a service, which the agent does itself, so only the files are taken. Containers run without it too.
install_lxcfs() {
	system=$(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin command -v lxcfs) || system=
	if [ -n "$system" ]; then
		[ "$(readlink "$LXCFS")" = "$system" ] || ln -sfn "$system" "$LXCFS"
		return 0
	fi
	[ ! -x "$LXCFS" ] || return 0
	new=$CACHE/lxcfs.new
	rm -rf "$new"
	mkdir -p "$new/lib" "$new/x"
	fuse=$(apt-cache depends lxcfs 2>/dev/null | sed -n 's/^ *Depends: \(libfuse[^ ]*\)$/\1/p' | head -n 1)
	if ! (cd "$new" && quietly apt-get download lxcfs ${fuse:-libfuse3-3}); then
		rm -rf "$new"
		warn "cannot fetch lxcfs: free, top and uptime inside of containers will show the host's figures."
		return 0
	fi
	for deb in "$new"/*.deb; do dpkg-deb -x "$deb" "$new/x"; done
	mv "$new/x/usr/bin/lxcfs" "$new/lxcfs"
	find "$new/x" \( -name liblxcfs.so -o -name 'libfuse3.so.*' \) -exec cp -P {} "$new/lib/" \;
	rm -rf "$new/x" "$new"/*.deb "$CACHE/lxcfs"
	mv "$new" "$CACHE/lxcfs"
	ln -sfn ../lxcfs/lxcfs "$LXCFS"
	say "lxcfs is in $LXCFS"
}

# ---- runc ----

# The checkout that this very script lies in, if any. Never the working directory: as root we would build what
# anybody left there.
checkout() {
	case $0 in
	cmd/vzcluster/setup.sh | */cmd/vzcluster/setup.sh) ;;
	*) return 0 ;;
	esac
	dir=$(cd "$(dirname "$0")/../.." && pwd)
	! grep -qsx "module $MODULE" "$dir/go.mod" || echo "$dir"
}

go_command() {
	# sudo's PATH does not have Go's usual place.
	for go in "$(command -v go || :)" /usr/local/go/bin/go /usr/lib/go/bin/go; do
		if [ -n "$go" ] && [ -x "$go" ]; then
			echo "$go"
			return
		fi
	done
}

# runc from its Go module: Debian's lacks the fixes for the container escapes of 2025 and the option that leaves
# cgroups alone at a restore.
install_runc() {
	src=$(checkout)
	version=$RUNC_VERSION
	if [ -n "$src" ]; then
		version=$(sed -n 's,^[[:space:]]*github.com/opencontainers/runc \(v[^ ]*\).*,\1,p' "$src/go.mod")
		[ -n "$version" ] || die "$src/go.mod does not say which runc to build."
	fi
	stamp=$CACHE/runc.version
	if [ -x "$RUNC" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$version" ]; then
		return 0
	fi
	go=$(go_command)
	[ -n "$go" ] || die "Go is needed to build runc: install Go 1.26 or newer (https://go.dev/dl) and run this again."
	# Go fetches a newer self by itself, but only since 1.21.
	have=$("$go" version | sed -n 's/^go version go\([0-9.]*\).*/\1/p')
	version_at_least "$have" 1.21 || die "Go $have is too old to build runc: install Go 1.26 or newer (https://go.dev/dl)."
	say "building runc $version"
	rm -rf "$CACHE/runc.new"
	mkdir "$CACHE/runc.new"
	export HOME="${HOME:-/root}" CGO_ENABLED=1
	if [ -n "$src" ]; then
		quietly "$go" -C "$src" build -trimpath -buildvcs=false -tags seccomp -o "$CACHE/runc.new/runc" \
			github.com/opencontainers/runc
	else
		GOBIN=$CACHE/runc.new quietly "$go" install -trimpath -tags seccomp "github.com/opencontainers/runc@$version"
	fi || die "building runc failed, see above."
	# By rename: a container that is starting right now keeps the old one.
	mv -f "$CACHE/runc.new/runc" "$RUNC"
	rmdir "$CACHE/runc.new"
	echo "$version" >"$stamp"
	say "runc $version is in $RUNC"
}

# ---- sysctls ----

sysctl_file() { echo "/proc/sys/$(echo "$1" | tr . /)"; }

# wanted KEY VALUE RULE: true if the key's present value, left in $now, has to be changed
wanted() {
	now=
	now=$(cat "$(sysctl_file "$1")" 2>/dev/null) || return 1 # not `read`: a shell reads bytes, /proc/sys gives only one
	case $3 in
	min) [ "$now" -lt "$2" ] ;;
	*) [ "$now" != "$2" ] ;;
	esac
}

raise_sysctls() {
	echo "$SYSCTLS" | while read -r key value rule; do
		file=$(sysctl_file "$key")
		[ -e "$file" ] || continue # this kernel has no such limit
		wanted "$key" "$value" "$rule" || continue
		if ! { echo "$value" >"$file"; } 2>/dev/null; then
			warn "cannot set $key to $value (it is $now): this host does not let us."
			continue
		fi
		# The first value ever seen is the one to go back to.
		grep -qs "^$key " "$BEFORE" || echo "$key $now" >>"$BEFORE"
		say "sysctl $key: $now -> $value"
	done
}

restore_sysctls() {
	[ -s "$BEFORE" ] || return 0
	while read -r key before; do
		ours=$(printf '%s\n' "$SYSCTLS" "$POST_COPY" | sed -n "s/^$key \([^ ]*\) .*/\1/p")
		file=$(sysctl_file "$key")
		now=$(cat "$file" 2>/dev/null) || continue
		[ "$now" != "$before" ] || continue
		if [ "$now" != "$ours" ]; then
			say "sysctl $key is $now, which set-up did not set: left alone"
		elif { echo "$before" >"$file"; } 2>/dev/null; then
			say "sysctl $key: $now -> $before"
		else
			warn "cannot set $key back to $before (it is $now): this host does not let us."
		fi
	done <"$BEFORE"
}

# ---- group ----

# Members of the group may use the agent's socket; nobody is put into it.
add_group() {
	! getent group vzcluster >/dev/null || return 0
	: >"$CACHE/group.added"
	groupadd --system vzcluster || die "cannot add the group vzcluster."
	say "added the group vzcluster: its members may use the agent's socket"
}

remove_group() {
	[ -e "$CACHE/group.added" ] && getent group vzcluster >/dev/null || return 0
	if groupdel vzcluster; then say "removed the group vzcluster"; else warn "cannot remove the group vzcluster."; fi
}

# ---- subcommands ----

install() {
	need_root
	[ "${1-}" != post-copy ] || SYSCTLS="$SYSCTLS
$POST_COPY"
	need_debian
	lock
	mkdir -p "$CACHE/bin"
	: >>"$MARKER"
	raise_sysctls
	add_group
	install_packages
	install_criu
	install_lxcfs
	install_runc
}

remove() {
	need_root
	[ -d "$CACHE" ] || return 0
	[ -e "$MARKER" ] || die "$CACHE was not made by this set-up, so it is not removed."
	need_debian
	lock
	restore_sysctls
	remove_group
	if [ "$1" = keep ]; then
		[ ! -s "$INSTALLED" ] || say "the set-up had installed these packages; to remove them:" \
			"apt-get remove" $(installed $(cat "$INSTALLED"))
	else
		remove_packages
	fi
	rm -rf --one-file-system "$CACHE"
	say "removed $CACHE"
}

list() {
	need_debian
	for p in $PACKAGES; do
		if [ -n "$(missing "$p")" ]; then
			state=missing
		elif grep -qsx "$p" "$INSTALLED"; then
			state="installed by set-up"
		else
			state="was there before"
		fi
		printf '%-9s%-34s%s\n' package "$p" "$state"
	done
	grep -vxF "$(printf '%s\n' $PACKAGES)" "$INSTALLED" 2>/dev/null | while read -r p; do
		printf '%-9s%-34s%s\n' package "$p" "installed by set-up, as a dependency"
	done
	version=$(criu_version "$CRIU") || :
	printf '%-9s%-34s%s\n' program "$CRIU" "${version:-missing}"
	if [ -x "$LXCFS" ]; then version=there; else version=missing; fi
	printf '%-9s%-34s%s\n' program "$LXCFS" "$version"
	version=$(cat "$CACHE/runc.version" 2>/dev/null) || :
	printf '%-9s%-34s%s\n' program "$RUNC" "${version:-missing}"
	echo "$SYSCTLS" | while read -r key value rule; do
		[ -e "$(sysctl_file "$key")" ] || continue
		if wanted "$key" "$value" "$rule"; then state="$now, needs $value"; else state=$now; fi
		before=$(sed -n "s/^$key //p" "$BEFORE" 2>/dev/null) || :
		printf '%-9s%-34s%s\n' sysctl "$key" "$state${before:+ (was $before)}"
	done
	size=$(du -sh "$CACHE" 2>/dev/null | cut -f1) || :
	printf '%-9s%-34s%s\n' cache "$CACHE" "${size:-missing}"
}

case $CACHE in
/*/*) ;;
*) die "VZCLUSTER_CACHE must be an absolute path, and not directly under the root." ;;
esac

case "${1-install} ${2-}" in
'install ') install ;;
'install --post-copy') install post-copy ;;
'remove ') remove all ;;
'remove --keep-packages') remove keep ;;
'list ') list ;;
*)
	warn "usage: setup [install [--post-copy] | remove [--keep-packages] | list]"
	exit 2
	;;
esac
