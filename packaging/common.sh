# shellcheck shell=sh disable=SC2154
# What the scripts of this folder share; they set `root`, the folder of the sources, and source it.

die() {
    echo "$(basename "$0"): $1" >&2
    exit 1
}

# The version that the sources have.
version() {
    sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1
}

# The architecture of a program by its ELF header (e_machine), in Debian's words.
architecture() {
    [ "$(head -c 4 "$1" | tail -c 3)" = ELF ] || die "$1 is no program"
    case $(od -An -tu2 -j18 -N2 "$1" | tr -d ' ') in
    62) echo amd64 ;;
    183) echo arm64 ;;
    243) echo riscv64 ;;
    *) die "$1 is for an architecture that this script does not know" ;;
    esac
}

# When the sources were last changed, in Unix time: the date of all files in a package, so that it can be built again bit by bit.
epoch() {
    git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s
}

# The configuration that ships, with the log where the system has logs.
configuration() {
    sed 's|filename: logs/connmix.log  |filename: /var/log/connmix/connmix.log  |' "$root/connmix.yaml"
}

# Copies the scripts that ship, without their tests, into a folder.
scripts() {
    mkdir -p "$1"
    (cd "$root/lua" && find . -name '*.lua' ! -name '*_test.lua' ! -path './library/*' | sort) | while read -r file; do
        install -D -m 644 "$root/lua/$file" "$1/$file"
    done
}

# The documentation, with all that it leads to.
documentation() {
    mkdir -p "$1/packaging"
    cp -RL "$root/docs" "$root/clients" "$1/"
    cp -R "$root/packaging/kubernetes" "$1/packaging/"
    cp "$root"/*.md "$root/LICENSE-MIT" "$root/LICENSE-APACHE" "$1/"
    find "$1" -name __pycache__ -prune -exec rm -rf {} +
}

# The licences of all that is built into the program, which each package with it must hold: what THIRD_PARTY names, or made from the
# sources of the crates.
notices() {
    if [ -n "${THIRD_PARTY:-}" ]; then
        cp "$THIRD_PARTY" "$1"
    else
        (cd "$root" && tests/tools/third_party.py) >"$1" || die "the licences could not be gathered: cargo and python3 are needed"
    fi
}

# A copy of the program without what only a debugger reads.
program() {
    install -D -m 755 "$1" "$2"
    if command -v strip >/dev/null 2>&1; then
        strip --strip-unneeded "$2" 2>/dev/null || echo "$(basename "$0"): the program is not stripped" >&2
    fi
}
