#!/bin/sh
# Checks all dependencies with cargo-deny by deny.toml: licences, several versions of one crate, where they come from; and known
# faults, as far as their database can be fetched. Where cargo-deny is missing, or the database is, it says so, and that is no failure.
set -eu
cd "$(dirname "$0")/../.."

if ! cargo deny --version >/dev/null 2>&1; then
    echo "skipped: cargo-deny (cargo install --locked cargo-deny)"
    exit 0
fi
cargo deny --locked --log-level error check --hide-inclusion-graph licenses bans sources
if said=$(timeout 120 cargo deny --locked fetch db 2>&1); then
    cargo deny --locked --log-level error check --disable-fetch advisories
else
    echo "skipped: known faults of dependencies (their database could not be fetched: $(printf '%s\n' "$said" | tail -n 1))"
fi
