#!/bin/sh
# Runs unit tests with the compiler's sanitizers, which see foreign code's use of memory, too.
#
#   sanitizers.sh address [NAMES...]   memory that is not there any more, or is not given back: the native functions of scripts, also
#                                      where a VM's memory ends inside them
#   sanitizers.sh thread [NAMES...]    data races: the watchdog and the mailboxes
#
# NAMES are those of other tests, as for `cargo test`; `all` is every unit test. Where there is no nightly toolchain (for `thread` with
# the standard library's source) it says so, and that is no failure.
set -eu
cd "$(dirname "$0")/../.."

kind="${1:?address or thread}"
shift

skipped() {
    echo "skipped: the $kind sanitizer ($1)"
    exit 0
}

cargo +nightly --version >/dev/null 2>&1 || skipped "rustup toolchain install nightly"
target=$(rustc +nightly -vV | sed -n 's/^host: //p')
case "$target" in
x86_64-unknown-linux-gnu | aarch64-unknown-linux-gnu) ;;
*) skipped "not on $target" ;;
esac

case "$kind" in
address)
    [ $# -gt 0 ] || set -- script::tests script::mix::json script::mix::text script::mix::php_pack hub:: wire::frame \
        shard::outbox
    # A frame is to be where the stack is: string.gsub counts by its address how deep it is in.
    export ASAN_OPTIONS="detect_stack_use_after_return=0 ${ASAN_OPTIONS:-}"
    std=
    ;;
thread)
    [ -e "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ] ||
        skipped "rustup component add --toolchain nightly rust-src"
    # A signal waits there for the next call of the C library, which a loop of Lua need not make: so no others that are stopped.
    [ $# -gt 0 ] || set -- a_loop_that_allocates_is_stopped a_quick_script_is_left_alone hub:: queue::tests telemetry::log::queue
    # The standard library must be built with it.
    std=-Zbuild-std
    ;;
*)
    echo "address or thread?" >&2
    exit 2
    ;;
esac
[ "$1" != all ] || shift

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/sanitizers/$kind"
export RUSTFLAGS="-Zsanitizer=$kind ${RUSTFLAGS:-}"
export PROPTEST_CASES="${PROPTEST_CASES:-16}"
# shellcheck disable=SC2086
exec cargo +nightly test --locked --target "$target" $std --lib -- "$@"
