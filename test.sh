#!/bin/sh
# Runs all tests; arguments go to `cargo test`. What they need besides Rust (a C compiler and make: LuaJIT is built from
# its source; a Redis to test against) is installed first where it is missing, through apt, as root or with sudo.
set -eu
cd "$(dirname "$0")"

missing() {
    ! command -v "$1" >/dev/null 2>&1
}

fail() {
    echo "test.sh: $1" >&2
    exit 1
}

PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
if missing cargo; then
    fail "Rust is missing: install it with rustup, or put cargo on the PATH"
fi

packages=
if missing cc; then
    packages="$packages gcc libc6-dev"
fi
if missing make; then
    packages="$packages make"
fi
if missing redis-server; then
    packages="$packages redis-server"
fi
if [ -n "$packages" ]; then
    as_root=
    if [ "$(id -u)" != 0 ]; then
        as_root=sudo
    fi
    if missing apt-get || { [ -n "$as_root" ] && missing sudo; }; then
        fail "install these first:$packages"
    fi
    $as_root apt-get update
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
fi

exec cargo test "$@"
