#!/usr/bin/env python3
"""One engine of three behind nginx is stopped: how its clients come to the others.

    cargo build --release && python3 bench/drain.py [--clients N] [--spread SECONDS] [--delay SECONDS]

N (10,000) clients are connected through an nginx that spreads them over three engines, and goes to another one when one refuses. One
gets SIGTERM, with drainSpread SECONDS (20). Clients come back as those in browsers do: after the time that the close frame names, and,
should a connect fail, after a time by chance that doubles with each failure. Prints how many of them connected in each second and at
most within any second, how long that took them, and how many had to try again. Exits with 1 where the peak is over twice the rate of
the spread, or anybody was closed without being told when to come back, or one of the others' clients was closed.

Needs nginx, Python 3, and room for N descriptors. CONNMIX names another program than target/release/connmix.
"""

import argparse
import heapq
import os
import pathlib
import random
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

from crowd import BINARY, UPGRADE, Engine, frames, room_for

PATIENCE = 60

SCRIPT = """
function on_message(msg, conn) conn:send(msg.data) end
"""

CONFIG = """
logging: {filename: ''}
drainDelay: %(delay)s
drainSpread: %(spread)s
shutdownTimeout: %(timeout)s
center: {apiServer: {port: 0, bind: 127.0.0.1}}
engine:
  workers: 1
  apiServer: {port: 0, bind: 127.0.0.1}
  servers:
    - {port: 0, bind: 127.0.0.1, protocol: websocket, entry: entry.lua, pingInterval: 0, readTimeout: 0, options: [{name: path, value: /}]}
"""

NGINX = """
pid nginx.pid;
error_log error.log;
daemon off;
worker_processes 2;
worker_rlimit_nofile %(files)s;
events { worker_connections %(files)s; }
http {
  access_log off;
  proxy_read_timeout 1h;
  upstream clients { zone clients 256k; least_conn; %(servers)s }
  server {
    listen 127.0.0.1:%(port)s backlog=4096 reuseport;
    location / {
      proxy_pass http://clients;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_next_upstream error timeout http_503;
    }
  }
}
"""


class Clients:
    def __init__(self, port, many):
        self.port, self.many = port, many
        self.poll, self.sockets, self.heads = select.epoll(), {}, {}
        # When which attempt is due: one number for each client, which counts its failures.
        self.due, self.failures = [], {}
        self.closed, self.came, self.took, self.failed, self.untold = [], [], [], 0, 0
        self.begun, self.numbers = {}, {}
        self.open = 0

    def connect(self, number):
        made = socket.socket()
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.bind((f"127.0.0.{2 + number % 8}", 0))
        made.connect_ex(("127.0.0.1", self.port))
        at = made.fileno()
        self.sockets[at], self.heads[at], self.begun[at], self.numbers[at] = made, b"", time.monotonic(), number
        self.poll.register(at, select.EPOLLOUT)

    def turn(self, wait):
        now = time.monotonic()
        while self.due and self.due[0][0] <= now:
            self.connect(heapq.heappop(self.due)[1])
        if self.due:
            wait = min(wait, max(0, self.due[0][0] - now))
        for at, event in self.poll.poll(wait, 512):
            try:
                self.event(at, event)
            except OSError:
                self.end(at, None)

    def event(self, at, event):
        made = self.sockets[at]
        if event & select.EPOLLOUT:
            made.send(UPGRADE)
            self.poll.modify(at, select.EPOLLIN)
            return
        data = made.recv(65536)
        if not data:
            return self.end(at, None)
        if at not in self.heads:
            found, _ = frames(data)
            close = next((payload for opcode, payload in found if opcode == 8), None)
            return self.end(at, close) if close is not None else None
        self.heads[at] += data
        if b"\r\n\r\n" not in self.heads[at]:
            return
        if b" 101 " not in self.heads.pop(at).split(b"\r\n")[0]:
            self.heads[at] = b""
            return self.end(at, None)
        now = time.monotonic()
        self.came.append(now)
        self.took.append(now - self.begun[at])
        self.failures[self.numbers[at]] = 0
        self.open += 1

    def end(self, at, close):
        """The end of an attempt, or of a connection, with the payload of its close frame."""
        made, number, now = self.sockets.pop(at), self.numbers.pop(at), time.monotonic()
        made.close()
        if self.heads.pop(at, None) is not None:
            self.failed += 1
            failures = self.failures[number] = self.failures.get(number, 0) + 1
            wait = random.uniform(0.5, 1) * min(30, 2 ** failures)
        else:
            self.open -= 1
            self.closed.append(now)
            hint = re.search(rb"retry=(\d+)$", close or b"")
            self.untold += hint is None
            wait = int(hint[1]) / 1000 if hint else random.uniform(0.5, 1)
        heapq.heappush(self.due, (now + wait, number))


def peak(times, span=1.0):
    """The most of these within that many seconds."""
    times, first, most = sorted(times), 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - span:
            first += 1
        most = max(most, last - first + 1)
    return most


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--spread", type=float, default=20)
    parser.add_argument("--delay", type=float, default=0)
    options = parser.parse_args()
    limit = room_for(options.clients * 2 + 1000)
    if limit < options.clients * 3 // 2:
        sys.exit(f"{options.clients} clients need {options.clients * 3 // 2} descriptors in nginx (ulimit -n), and there are {limit}")
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if run(pathlib.Path(folder), options, limit) else 1)


def run(folder, options, limit):
    engines, proxy = [], None
    values = {"delay": options.delay, "spread": options.spread, "timeout": options.spread * 2 + 10}
    try:
        for number in range(3):
            own = folder / str(number)
            own.mkdir()
            (own / "connmix.yaml").write_text(CONFIG % values)
            (own / "entry.lua").write_text(SCRIPT)
            engines.append(Engine(own))
        port = free_port()
        servers = " ".join(f"server 127.0.0.1:{engine.ports[0]} max_fails=1 fail_timeout=1s;" for engine in engines)
        (folder / "nginx.conf").write_text(NGINX % {"files": limit, "servers": servers, "port": port})
        proxy = subprocess.Popen(["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"])
        return measure(port, engines, options)
    finally:
        for engine in engines:
            engine.stop()
        if proxy:
            proxy.terminate()
            proxy.wait()


def measure(port, engines, options):
    began = time.monotonic()
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            if time.monotonic() - began > PATIENCE:
                sys.exit("nginx does not serve")
            time.sleep(0.05)
    clients = Clients(port, options.clients)
    for number in range(options.clients):
        # As many at once as nginx and the engines take in their stride.
        while number - clients.open >= 200:
            clients.turn(0.05)
        clients.connect(number)
    while clients.open < options.clients:
        clients.turn(0.05)
        if time.monotonic() - began > PATIENCE * 3:
            sys.exit(f"only {clients.open} of {options.clients} clients are connected")
    print(f"{options.clients} clients in {time.monotonic() - began:.1f} s", flush=True)
    clients.came, clients.took, clients.failed = [], [], 0
    stopped = engines[0]
    asked = time.monotonic()
    os.kill(stopped.pid, signal.SIGTERM)
    while stopped.child.poll() is None or clients.open < options.clients:
        clients.turn(0.05)
        if time.monotonic() - asked > options.delay + options.spread * 3 + PATIENCE:
            print(f"only {clients.open} of {options.clients} clients are back")
            return False
    moved = len(clients.closed)
    # With few clients a stop is shorter: 10 ms for each.
    rate = moved / min(options.spread, moved / 100)
    by_second = [sum(int(at - asked) == second for at in clients.came) for second in range(int(clients.came[-1] - asked) + 1)]
    print(f"{moved} clients were closed within {clients.closed[-1] - clients.closed[0]:.1f} s (at most {peak(clients.closed)} within a second), "
          f"the engine ended with {stopped.child.returncode} after {clients.closed[-1] - asked:.1f} s")
    print(f"they were back {clients.came[-1] - asked:.1f} s after the signal; in each second: {' '.join(map(str, by_second))}")
    most = peak(clients.came)
    print(f"at most {most} connected within a second: {most / rate:.2f} times the rate of the spread, {rate:.0f}; the slowest took "
          f"{max(clients.took) * 1000:.0f} ms; {clients.failed} attempts failed, {clients.untold} were not told when to come back")
    others = [len(re.findall("internal error", engine.log.read_text())) for engine in engines]
    # Half of all are more than one of three engines had.
    return most <= 2 * rate and not clients.untold and not any(others) and moved < options.clients / 2 and stopped.child.returncode == 0


if __name__ == "__main__":
    main()
