#!/bin/sh
# Runs the fuzz targets of fuzz/ with cargo-fuzz, one after the other, and says how many inputs each has tried.
#
#   fuzz.sh [SECONDS [NAMES...]]   SECONDS for each target, 600 unless told; NAMES: only these
#
# What it finds stays in target/fuzz/artifacts, which inputs it goes on with the next time in target/fuzz/corpus. It ends with 1 if a
# target found something. Where there is no nightly toolchain or no cargo-fuzz it says so, and that is no failure: the same bodies run
# in the suite (`cargo test --lib fuzzing`, longer with PROPTEST_CASES).
set -eu
cd "$(dirname "$0")/../.."

seconds="${1:-600}"
[ $# -eq 0 ] || shift
if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "skipped: fuzzing (rustup toolchain install nightly)"
    exit 0
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "skipped: fuzzing (cargo install cargo-fuzz)"
    exit 0
fi
# The versions that the engine is built with.
[ -e fuzz/Cargo.lock ] || cp Cargo.lock fuzz/Cargo.lock
[ $# -gt 0 ] || set -- $(sed -n '/^\[\[bin\]\]/{n;s/^name = "\(.*\)"$/\1/p;}' fuzz/Cargo.toml)

# A frame is to be where the stack is: string.gsub counts by its address how deep it is in. What LuaJIT holds is not seen as held, since
# its references are no plain pointers: leaks are looked for by sanitizers.sh.
export ASAN_OPTIONS="detect_stack_use_after_return=0 detect_leaks=0 ${ASAN_OPTIONS:-}"
out="$PWD/target/fuzz"
cargo +nightly fuzz build --fuzz-dir fuzz --target-dir "$out/build"
failed=0
for name in "$@"; do
    mkdir -p "$out/corpus/$name" "$out/artifacts/$name"
    log="$out/$name.log"
    # shellcheck disable=SC2086
    if cargo +nightly fuzz run --fuzz-dir fuzz --target-dir "$out/build" "$name" "$out/corpus/$name" "$PWD/fuzz/corpus/$name" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=20 -detect_leaks=0 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$out/artifacts/$name/" ${FUZZ_FLAGS:-} >"$log" 2>&1; then
        said=nothing
    else
        said="something, see $log"
        failed=1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    echo "$name: ${runs:-?} inputs in $seconds s, found $said"
done
exit "$failed"
