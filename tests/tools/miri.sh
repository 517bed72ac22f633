#!/bin/sh
# Runs unit tests of what has no Lua, no socket and no other foreign code under Miri, which finds undefined behaviour: memory that
# is not there, not written or shared wrongly, and data races. Without arguments some that take seconds; with `all` every one, which
# takes an hour or more; else those of the names that are given, as for `cargo test`. Where there is no nightly toolchain with Miri it says
# so, and that is no failure.
set -eu
cd "$(dirname "$0")/../.."

if ! cargo +nightly miri --version >/dev/null 2>&1; then
    echo "skipped: Miri (rustup toolchain install nightly; rustup component add --toolchain nightly miri rust-src)"
    exit 0
fi

# Tests read the clock, and files of their own. Models are compared with what they stand for over a few steps only.
export MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS:-}"
export PROPTEST_CASES="${PROPTEST_CASES:-4}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/miri"

rooms="wire:: script::pattern:: hub:: shard::outbox queue:: telemetry::"
case "${1:-some}" in
some)
    # Only those that take seconds there.
    set -- wire::frame wire::host script::pattern:: hub::tests hub::pending shard::outbox queue::tests telemetry::metrics::counter \
        --skip telemetry::log --skip a_queue_behaves_as_the_model --skip bytes_come_out_as_they_went_in \
        --skip a_consumer_with --skip an_exploding_pattern_is_stopped --skip long_scans_look_at_the_clock \
        --skip recursion_is_bounded --skip classes_have_the_members
    ;;
all)
    # shellcheck disable=SC2086
    set -- $rooms
    ;;
esac
exec cargo +nightly miri test --locked --lib -- "$@"
