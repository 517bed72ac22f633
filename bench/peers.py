#!/usr/bin/env python3
"""Measures the engine beside its peers, in turn in one sitting, and fills the table of docs/performance.md.

    cargo build --release && python3 bench/peers.py [RUNS]
    cargo build --release && python3 bench/peers.py --tls [RUNS]

With --tls it measures clients with TLS beside nginx with TLS and nchan, and only prints. Each connection does a whole
handshake, with a certificate of an ECDSA key (P-256) that openssl makes; publishes are without TLS.

Needs Debian's packages nginx libnginx-mod-nchan libnginx-mod-http-lua lua-nginx-websocket lua-cjson, and two cores: the
server under test has core 0, the client core 1. Figures are medians of RUNS runs (5); the ratio is that of the medians.
"""

import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = str(ROOT / "target" / "release" / "connmix")
PAGE = ROOT / "docs" / "performance.md"
START, END = "<!-- peers: bench/peers.py -->", "<!-- end of peers -->"

NCHAN = ["--url", "ws://127.0.0.1:8091/subscribe?channel={c}", "--publish", "http://127.0.0.1:8091/publish?channel={c}",
         "--body", "{d}", "--hello", ""]
LUA = ["--url", "ws://127.0.0.1:8092/"]
OURS = ["--server-cpu", "0"]
RATE, LATE = "deliveries_per_second", "delay_p99"
# name, figure, arguments, peers, whether more is better
FIGURES = [
    ("fan-out to 1,000, one publish at a time", RATE, ["fanout", "--messages", "1000"], {"nchan": NCHAN}, True),
    ("the same, p99 delay in us", LATE, None, {"nchan": NCHAN}, False),
    ("fan-out to 1,000, 64 messages under way", RATE, ["fanout", "--messages", "1500", "--window", "64"],
     {"nchan": NCHAN}, True),
    ("the same, p99 delay in us", LATE, None, {"nchan": NCHAN}, False),
    ("publish to one subscriber each, 8 publishers", RATE,
     ["fanout", "--subscribers", "100", "--channels", "100", "--publishers", "8", "--window", "8", "--messages",
      "150000"], {"nchan": NCHAN}, True),
    ("the same, p99 delay in us", LATE, None, {"nchan": NCHAN}, False),
    ("handler, one message under way on each of 64 connections", "messages_per_second",
     ["handler", "--messages", "300000"], {"nginx Lua": LUA}, True),
    ("handler, 16 under way on each", "messages_per_second", ["handler", "--messages", "1000000", "--depth", "16"],
     {"nginx Lua": LUA}, True),
    ("connections a second", "connections_per_second", ["connect"], {"nchan": NCHAN, "nginx Lua": LUA}, True),
]


TLS_NCHAN = ["--url", "wss://localhost:8093/subscribe?channel={c}", *NCHAN[2:], "--ca", "{folder}/cert.pem"]
TLS_OURS = ["--url", "wss://localhost:8094/bench", "--publish", "http://127.0.0.1:8095/v1/mesh/publish", "--ca",
            "{folder}/cert.pem"]
TLS_FIGURES = [
    ("handshakes a second", "connections_per_second", ["connect", "--connections", "5000"]),
    ("fan-out to 1,000, one publish at a time", RATE, ["fanout", "--messages", "1000"]),
    ("the same, p99 delay in us", LATE, None),
    ("fan-out to 1,000, 64 messages under way", RATE, ["fanout", "--messages", "1500", "--window", "64"]),
    ("the same, p99 delay in us", LATE, None),
    ("publish to one subscriber each, 8 publishers", RATE,
     ["fanout", "--subscribers", "100", "--channels", "100", "--publishers", "8", "--window", "8", "--messages",
      "100000"]),
    ("memory of an idle connection, bytes", "bytes_per_connection", ["idle", "--connections", "5000"]),
]
TLS_CONFIG = """logging: {filename: '', level: warn}
center: {apiServer: {port: 8096, bind: 127.0.0.1}}
engine:
  apiServer: {port: 8095, bind: 127.0.0.1}
  workers: 1
  servers:
    - port: 8094
      bind: 127.0.0.1
      entry: ENTRY
      options: [{name: path, value: /bench}]
      tls: {cert: cert.pem, key: key.pem}
"""


def bench(arguments, where):
    # `connect` and `idle` publish nothing.
    publishing = ["--publish", "--body"]
    extra = [a for i, a in enumerate(where)
             if arguments[0] == "fanout" or (a not in publishing and (i == 0 or where[i - 1] not in publishing))]
    command = [BINARY, "bench", *arguments, *extra, "--client-cpu", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


def nginx(folder):
    (folder / "temp").mkdir(exist_ok=True)
    shutil.copy(ROOT / "bench" / "peers" / "nginx.conf", folder)
    # Its modules are found through this link.
    if not (folder / "modules").exists():
        (folder / "modules").symlink_to("/usr/lib/nginx/modules")
    server = subprocess.Popen(["taskset", "-c", "0", "nginx", "-p", str(folder), "-c", "nginx.conf"])
    time.sleep(1)
    return server


def with_tls(runs):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                        "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem"],
                       cwd=folder, check=True, capture_output=True)
        (folder / "connmix.yaml").write_text(
            TLS_CONFIG.replace("ENTRY", str(ROOT / "lua" / "entry.websocket.lua")))
        shutil.copy(ROOT / "bench" / "peers" / "tls.conf", folder)
        last = {}
        for what, figure, arguments in TLS_FIGURES:
            if arguments:
                last = {"ours": [], "nchan": []}
                for _ in range(runs):
                    for who, where in [("ours", TLS_OURS), ("nchan", TLS_NCHAN)]:
                        server = nginx(folder) if who == "nchan" else subprocess.Popen(
                            ["taskset", "-c", "0", BINARY, "single", "-f", "connmix.yaml"], cwd=folder)
                        time.sleep(1)
                        own = [a.replace("{folder}", name) for a in where]
                        if arguments[0] == "idle":
                            own += ["--pid", str(serving(server.pid))]
                        last[who].append(bench(arguments, own))
                        server.terminate()
                        server.wait()
            median = {who: statistics.median(run[figure] for run in of) for who, of in last.items()}
            ours, theirs = median["ours"], median["nchan"]
            print(f"{what}: ours {ours:,.0f}, nchan {theirs:,.0f}, ratio {ours / theirs:.2f}", flush=True)


def serving(pid):
    """The process that serves: nginx's worker, or the engine itself."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return children[0] if children else pid


def main():
    if "--tls" in sys.argv:
        rest = [argument for argument in sys.argv[1:] if argument != "--tls"]
        return with_tls(int(rest[0]) if rest else 5)
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rows, last = [], None
    for name, figure, arguments, peers, more in FIGURES:
        if arguments:
            last = {who: [] for who in ["ours", *peers]}
            for _ in range(runs):
                last["ours"].append(bench(arguments, OURS))
                for peer, where in peers.items():
                    with tempfile.TemporaryDirectory() as folder:
                        server = nginx(pathlib.Path(folder))
                        last[peer].append(bench(arguments, where))
                        server.terminate()
                        server.wait()
        command = " ".join(arguments) if arguments else ""
        median = {who: statistics.median(run[figure] for run in of) for who, of in last.items()}
        for peer in peers:
            ratio = median["ours"] / median[peer]
            rows.append((name, command, peer, median["ours"], median[peer], ratio))
            print(f"{name}: ours {median['ours']:,.0f}, {peer} {median[peer]:,.0f}, ratio {ratio:.2f}", flush=True)
    table = ["| figure | `connmix bench` | ours | peer | ratio |", "|---|---|---:|---:|---:|"]
    for name, command, peer, ours, theirs, ratio in rows:
        told = f"`{command}`" if command else ""
        table.append(f"| {name} | {told} | {ours:,.0f} | {theirs:,.0f} ({peer}) | {ratio:.2f} |")
    page = PAGE.read_text()
    before, rest = page.split(START, 1)
    after = rest.split(END, 1)[1]
    PAGE.write_text(before + START + "\n\n" + "\n".join(table) + "\n\n" + END + after)


main()
