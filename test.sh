#!/bin/sh
# Runs all tests, with the cluster; arguments go to `cargo test`. What they need besides Rust is installed first where it is missing, through apt,
# as root or with sudo. Without these the tests can't be built or run: a C compiler and make (LuaJIT is built from its source), a
# Redis. Without the others the tests that need them are skipped, which the last lines tell: a browser, npm (for a checker of accessibility), the
# languages of docs/clients and clients, Prometheus' checker, Kubernetes' schemas, OpenTelemetry's, nginx with its stream module, logrotate, an init, containers, a clock
# that can be set for one program; and, where this is not root, those that cut a network, fill a disk or install a package.
set -eu
cd "$(dirname "$0")"
tools="$PWD/target/tools"

missing() {
    ! command -v "$1" >/dev/null 2>&1
}

fail() {
    echo "test.sh: $1" >&2
    exit 1
}

PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:$tools/usr/bin:/usr/sbin"
if missing cargo; then
    fail "Rust is missing: install it with rustup, or put cargo on the PATH"
fi

required=
optional=
missing cc && required="$required gcc libc6-dev"
missing make && required="$required make"
missing redis-server && required="$required redis-server"
missing chromium && optional="$optional chromium"
missing curl && optional="$optional curl"
missing nginx && optional="$optional nginx-light"
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || optional="$optional libnginx-mod-stream"
missing faketime && optional="$optional faketime"
missing ip && optional="$optional iproute2"
missing logrotate && optional="$optional logrotate"
missing tini && optional="$optional tini"
missing systemd-nspawn && optional="$optional systemd-container"
missing podman && optional="$optional podman"
missing runc && optional="$optional runc"
missing python3 && optional="$optional python3"
python3 -m pip --version >/dev/null 2>&1 || optional="$optional python3-pip"
missing node && optional="$optional nodejs"
missing go && optional="$optional golang-go"
missing javac && optional="$optional default-jdk-headless"
php -r 'exit(extension_loaded("curl") ? 0 : 1);' >/dev/null 2>&1 || optional="$optional php-cli php-curl"

as_root=
if [ "$(id -u)" != 0 ]; then
    as_root=sudo
fi
can_install() {
    ! missing apt-get && { [ -z "$as_root" ] || ! missing sudo; }
}
install() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}
if [ -n "$required$optional" ] || missing promtool; then
    if can_install; then
        $as_root apt-get update || true
    fi
fi
if [ -n "$required" ]; then
    can_install || fail "install these first:$required"
    # shellcheck disable=SC2086
    install $required
fi
# One by one: a package that this system does not have costs only its own tests.
for package in $optional; do
    if ! can_install || ! install "$package"; then
        echo "test.sh: $package could not be installed" >&2
    fi
done

# Kept beside the build, not installed: the package would start a server, and Python's is newer than Debian's.
if missing promtool && ! missing apt-get; then
    mkdir -p "$tools"
    (cd "$tools" && apt-get download prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb) ||
        echo "test.sh: promtool could not be fetched" >&2
fi
export PYTHONPATH="$tools/python${PYTHONPATH:+:$PYTHONPATH}"
if ! python3 -c 'import websockets.asyncio.client' 2>/dev/null; then
    python3 -m pip install --quiet --disable-pip-version-check --target "$tools/python" 'websockets>=13' ||
        echo "test.sh: the Python package websockets could not be installed" >&2
fi
if ! python3 -c 'import autobahn.asyncio.websocket' 2>/dev/null; then
    python3 -m pip install --quiet --disable-pip-version-check --target "$tools/python" 'autobahn>=26' ||
        echo "test.sh: the Python package autobahn could not be installed" >&2
fi

# The schema that what is sent to collectors is held against.
if ! python3 -c 'import opentelemetry.proto.trace.v1.trace_pb2' 2>/dev/null; then
    python3 -m pip install --quiet --disable-pip-version-check --target "$tools/python" opentelemetry-proto ||
        echo "test.sh: the Python package opentelemetry-proto could not be installed" >&2
fi

# The schemas that the manifests for Kubernetes are held against.
if ! python3 -c 'import kubernetes_validate, yaml' 2>/dev/null; then
    python3 -m pip install --quiet --disable-pip-version-check --target "$tools/python" kubernetes-validate ||
        echo "test.sh: the Python package kubernetes-validate could not be installed" >&2
fi

# What finds barriers in web pages. Its version stands in tests/common/browser.rs, too.
axe=axe-core-4.14.1
if [ ! -e "$tools/$axe" ] && ! missing npm; then
    fetched=$(mktemp -d)
    if (cd "$fetched" && npm pack --silent "axe-core@${axe#axe-core-}" && tar -xzf "$axe.tgz"); then
        mkdir -p "$tools" && mv "$fetched" "$tools/$axe"
    else
        echo "test.sh: the npm package axe-core could not be fetched" >&2
    fi
fi

mkdir -p target
log=target/test.log
status=target/test.status
{ cargo test --features cluster "$@" && echo 0 >"$status" || echo 1 >"$status"; } 2>&1 | tee "$log"
echo
grep -E '^test .*\.\.\. ignored' "$log" | sed 's/^test \([^ ]*\) *\.\.\. ignored/skipped: \1/' || true
awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
     END { print passed + 0 " passed, " failed + 0 " failed, " skipped + 0 " skipped" }' "$log"
exit "$(cat "$status")"
