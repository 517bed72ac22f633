#!/usr/bin/env python3
"""Rooms with more messages than anybody can read, and readers that do not keep up: what others notice of them.

    cargo build --release && python3 bench/rooms.py [limit] [slow]

`limit`: SUBSCRIBERS (10,000) clients are in a room, and OFFERED (100,000) publishes a second are offered to it, one in twenty with high
priority: with the rule `limit: {rate: 40/200ms, reserve: 20}`, and without a rule. `slow`: STALLED (1,000) of SUBSCRIBERS take
nothing while RATE (20) messages a second of SIZE (2,000) bytes come, under each `slow` rule; in the end they read what is left for them, and what they
got and what was dropped must be all that was published; first all that with nobody who stalls. Beside either, 100 clients are in another room that gets 20 messages a
second: how late these arrive is compared with a run without the load. Prints the figures and, at the end, all of them as JSON.

The engine has half of the cores for itself, with a worker for each, and the clients have the others, as if they were other machines: what
they wait for a core is no delay of the engine's. SECONDS (10) is how long each part lasts. Needs Python 3 alone, room for SUBSCRIBERS descriptors,
and the program: CONNMIX names another one than target/release/connmix. As root it measures more exactly. Compare runs of one sitting.
"""

import json
import multiprocessing
import os
import pathlib
import resource
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.path.abspath(os.environ.get("CONNMIX", ROOT / "target" / "release" / "connmix"))
SUBSCRIBERS = int(os.environ.get("SUBSCRIBERS", 10_000))
STALLED = int(os.environ.get("STALLED", 1000))
OFFERED = int(os.environ.get("OFFERED", 100_000))
RATE = float(os.environ.get("RATE", 20))
SIZE = int(os.environ.get("SIZE", 2000))
SECONDS = float(os.environ.get("SECONDS", 10))
CORES = sorted(os.sched_getaffinity(0))
ENGINES, OTHERS = CORES[: max(1, len(CORES) // 2)], CORES[len(CORES) // 2 :]
PUBLISHERS = 8
SAMPLED = 10
WITNESSES = 100
PATIENCE = 120

SCRIPT = """
function on_message(msg, conn)
  conn:send(conn:subscribe(msg.data) or "in")
end
"""

CONFIG = """
logging: {filename: '', level: warn}
center: {apiServer: {port: 0, bind: 127.0.0.1}}
engine:
  workers: %(workers)s
  apiServer: {port: %(api)s, bind: 127.0.0.1}
  channels: [%(rule)s]
  servers:
    - {port: %(clients)s, bind: 127.0.0.1, protocol: websocket, entry: entry.lua, writeTimeout: 0,
       unsentLimit: 16KiB, outboxLimit: 64KiB,
       options: [{name: path, value: /}]}
"""

UPGRADE = ("GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")

now = time.monotonic


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def frame(text):
    """As a client sends it: masked with zeros, which change nothing."""
    data = text.encode()
    head = bytes([0x81]) + (bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data)))
    return head + b"\0\0\0\0" + data


class Frames:
    """The messages in the bytes that a server sends."""

    def __init__(self):
        self.bytes = b""

    def take(self, more):
        self.bytes += more
        messages, at, have = [], 0, self.bytes
        while len(have) >= at + 2:
            length, head = have[at + 1], 2
            if length == 126:
                if len(have) < at + 4:
                    break
                length, head = struct.unpack_from(">H", have, at + 2)[0], 4
            elif length == 127:
                if len(have) < at + 10:
                    break
                length, head = struct.unpack_from(">Q", have, at + 2)[0], 10
            if len(have) < at + head + length:
                break
            if have[at] == 0x81:
                messages.append(have[at + head:at + head + length])
            at += head + length
        self.bytes = have[at:]
        return messages


def dial(port, path="/", narrow=False):
    one = socket.socket()
    if narrow:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(PATIENCE)
    one.connect(("127.0.0.1", port))
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    one.sendall((UPGRADE % path).encode())
    got = b""
    while b"\r\n\r\n" not in got:
        more = one.recv(4096)
        if not more:
            sys.exit("a connection was refused")
        got += more
    return one, got.split(b"\r\n\r\n", 1)[1]


def join(port, channel, narrow=False):
    one, rest = dial(port, "/", narrow)
    one.sendall(frame(channel))
    while len(rest) < 4:
        rest += one.recv(4096)
    assert rest[:4] == b"\x81\x02in", rest
    return one


class Engine:
    """A process with that rule for the room."""

    def __init__(self, rule):
        self.folder = tempfile.TemporaryDirectory()
        self.clients, self.api = free_port(), free_port()
        where = pathlib.Path(self.folder.name)
        where.joinpath("entry.lua").write_text(SCRIPT)
        values = {"workers": len(ENGINES), "api": self.api, "clients": self.clients, "rule": rule}
        where.joinpath("connmix.yaml").write_text(CONFIG % values)
        with open(where / "log", "wb") as log:
            own = {"preexec_fn": lambda: os.sched_setaffinity(0, ENGINES)}
            self.process = subprocess.Popen([BINARY, "single"], cwd=where, stdout=log, stderr=log, **own)
        begun = now()
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.api}/readyz").read()
                return
            except OSError:
                if self.process.poll() is not None or now() - begun > PATIENCE:
                    sys.exit((where / "log").read_text()[-2000:])
                time.sleep(0.05)

    def metrics(self):
        page = urllib.request.urlopen(f"http://127.0.0.1:{self.api}/metrics", timeout=PATIENCE).read().decode()
        lines = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def resident(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


class Part:
    """Clients in a process of their own. Those that make the load leave the processor to those that measure."""

    def __init__(self, run, *arguments):
        self.pipe, other = multiprocessing.Pipe()

        def begin():
            if run is not witnesses:
                os.nice(19)
            elif os.geteuid() == 0:
                os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
            run(other, *arguments)

        self.process = multiprocessing.Process(target=begin, daemon=True)
        self.process.start()
        assert self.pipe.recv() == "ready"

    def ask(self, word):
        self.pipe.send(word)
        return self.pipe.recv()


def readers(pipe, port, channel, count):
    """Clients that read all, and a few whose messages are looked at."""
    sockets = [join(port, channel) for _ in range(count)]
    poll, sampled = select.epoll(), {}
    for n, one in enumerate(sockets):
        one.setblocking(False)
        poll.register(one, select.EPOLLIN)
        if n < SAMPLED:
            sampled[one.fileno()] = (Frames(), [])
    by_number = {one.fileno(): one for one in sockets}
    poll.register(pipe, select.EPOLLIN)
    buffer = bytearray(1 << 18)
    pipe.send("ready")
    ended = 0
    while True:
        for number, _ in poll.poll():
            if number == pipe.fileno():
                pipe.recv()
                taken = [messages[:] for _, messages in sampled.values()]
                for _, messages in sampled.values():
                    messages.clear()
                pipe.send((taken, ended))
                continue
            try:
                size = by_number[number].recv_into(buffer)
            except BlockingIOError:
                continue
            except OSError:
                size = 0
            if size == 0:
                ended += 1
                poll.unregister(number)
            elif number in sampled:
                frames, messages = sampled[number]
                at = now()
                messages.extend((at, message) for message in frames.take(bytes(buffer[:size])))


def stalled(pipe, port, channel, count):
    """Clients that read nothing until they are asked for what they get."""
    sockets = [join(port, channel, narrow=True) for _ in range(count)]
    pipe.send("ready")
    pipe.recv()
    got, ended, gaps = 0, 0, 0
    for one in sockets:
        frames, last = Frames(), None
        try:
            while last != "end":
                more = one.recv(1 << 16)
                if not more:
                    ended += 1
                    break
                for message in frames.take(more):
                    word = message.decode().split(" ", 1)[0]
                    got += word != "end"
                    if word != "end" and last is not None and int(word) != int(last) + 1:
                        gaps += 1
                    last = word
        except OSError:
            ended += 1
    pipe.send((got, ended, gaps))


def witnesses(pipe, port, api, channel):
    """Another room: clients, and a publisher. How late its messages arrive."""
    sockets = [join(port, channel) for _ in range(WITNESSES)]
    back_end, _ = dial(api, "/ws/v1")
    back_end.setblocking(False)
    poll, frames = select.epoll(), {}
    for one in sockets:
        one.setblocking(False)
        poll.register(one, select.EPOLLIN)
        frames[one.fileno()] = (one, Frames())
    poll.register(pipe, select.EPOLLIN)
    pipe.send("ready")
    due, delays = now(), []
    while True:
        for number, _ in poll.poll(max(0, due - now())):
            if number == pipe.fileno():
                pipe.recv()
                pipe.send(delays)
                delays = []
                continue
            one, parser = frames[number]
            try:
                more = one.recv(1 << 16)
            except BlockingIOError:
                continue
            at = now()
            delays.extend(at - float(message) for message in parser.take(more))
        if now() >= due:
            # Not in step with the windows of the room's rule.
            due = max(due + 0.047, now())
            call = {"m": "mesh.publish", "p": {"c": channel, "d": repr(now())}}
            try:
                while back_end.recv(1 << 16):
                    pass
            except BlockingIOError:
                pass
            back_end.setblocking(True)
            back_end.sendall(frame(json.dumps(call)))
            back_end.setblocking(False)


def flood(pipe, api, channel, rate):
    """Publishers that offer so many messages a second, as long as they are taken. Of each twenty one has high priority."""
    sockets = [dial(api, "/ws/v1")[0] for _ in range(PUBLISHERS)]
    calls = [{"m": "mesh.publish", "p": {"c": channel, "d": "x" * 100, "k": "x"}} for _ in range(20)]
    calls[0]["p"].update(d="high", pr="high")
    block = b"".join(frame(json.dumps(call)) for call in calls * 10)
    pending, poll = {}, select.epoll()
    for one in sockets:
        one.setblocking(False)
        poll.register(one, select.EPOLLIN)
        pending[one.fileno()] = (one, bytearray())
    poll.register(pipe, select.EPOLLIN)
    pipe.send("ready")
    pipe.recv()
    pipe.send("begun")
    begun, offered, answered, left_out = now(), 0, 0, 0
    while True:
        wanted = (now() - begun) * rate
        for one, out in pending.values():
            if offered + 200 <= wanted and len(out) < len(block):
                out += block
                offered += 200
            try:
                if out:
                    del out[:one.send(out)]
            except BlockingIOError:
                pass
        for number, _ in poll.poll(0 if offered + 200 <= wanted else 0.001):
            if number == pipe.fileno():
                pipe.recv()
                pipe.send((offered, answered, left_out))
                return
            try:
                more = pending[number][0].recv(1 << 18)
            except BlockingIOError:
                continue
            answered += more.count(b'"E":null')
            left_out += more.count(b'"l":1')


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * q))] * 1000 if values else None


def raise_descriptors():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(engine, work):
    """The delays of the other room without the load and with it, and what the engine takes meanwhile."""
    other = Part(witnesses, engine.clients, engine.api, "other")
    time.sleep(1)
    other.ask("delays")
    time.sleep(SECONDS)
    alone = other.ask("delays")
    memory, cpu, begun = [engine.resident()], engine.cpu(), now()
    figures = work(lambda: memory.append(engine.resident()))
    took = now() - begun
    beside = other.ask("delays")
    figures |= {
        "other room p50 ms": [round(quantile(delays, 0.5), 2) for delays in (alone, beside)],
        "other room p99 ms": [round(quantile(delays, 0.99), 2) for delays in (alone, beside)],
        "p99 ratio": round(quantile(beside, 0.99) / quantile(alone, 0.99), 2),
        "cpu cores": round((engine.cpu() - cpu) / took, 2),
        "memory MiB": {"before": round(memory[0]), "first": round(memory[1]), "last": round(memory[-1]), "most": round(max(memory))},
    }
    other.process.kill()
    return figures


def limited(rule):
    engine = Engine(rule)
    crowd, load = Part(readers, engine.clients, "room", SUBSCRIBERS), Part(flood, engine.api, "room", OFFERED)

    def work(look):
        crowd.ask("clear")
        load.ask("begin")
        ends = now() + SECONDS
        while now() < ends:
            time.sleep(0.5)
            look()
        offered, answered, left_out = load.ask("end")
        taken, ended = crowd.ask("taken")
        windows = SECONDS / 0.2
        each = [len(messages) for messages in taken]
        high = [sum(message == b"high" for _, message in messages) for messages in taken]
        return {
            "offered a second": round(offered / SECONDS), "answered a second": round(answered / SECONDS),
            "left out": left_out, "a window, each client": [round(min(each) / windows, 1), round(max(each) / windows, 1)],
            "of high priority": round(sum(high) / max(1, sum(each)), 3), "closed": ended,
        }

    figures = run(engine, work)
    crowd.process.kill()
    load.process.kill()
    engine.end()
    return figures


def slow(policy, count=STALLED):
    engine = Engine(f"{{match: room, slow: {policy}}}")
    crowd = Part(readers, engine.clients, "room", SUBSCRIBERS - STALLED)
    lagging = Part(stalled, engine.clients, "room", count)
    counters = ["oldest", "latest", "too_slow"]

    def work(look):
        crowd.ask("clear")
        back_end, _ = dial(engine.api, "/ws/v1")
        published, delays, begun, replies = 0, [], now(), Frames()

        def publish(word):
            call = {"m": "mesh.publish", "p": {"c": "room", "d": f"{word} {now()!r} {'x' * SIZE}", "k": word if word == "end" else str(published % 10)}}
            back_end.sendall(frame(json.dumps(call)))
            while not replies.take(back_end.recv(1 << 16)):
                pass

        while now() - begun < SECONDS:
            publish(published)
            published += 1
            if published % 10 == 0:
                look()
            time.sleep(max(0, begun + published / RATE - now()))
        publish("end")
        time.sleep(1)
        taken, ended = crowd.ask("taken")
        for messages in taken:
            assert len(messages) == published + 1, f"a reader that keeps up got {len(messages)} of {published + 1}"
            delays += [at - float(message.split(b" ", 2)[1]) for at, message in messages]
        got, closed, gaps = lagging.ask("read")
        metrics = engine.metrics()
        dropped = {cause: int(metrics[f'connmix_engine_dropped_messages_total{{cause="{cause}"}}']) for cause in counters}
        if policy != "close":
            missing = published * count - got - dropped["oldest"] - dropped["latest"]
            assert missing == 0, f"{missing} messages are not accounted for"
        return {
            "published": published, "stalled got": got, "dropped": dropped, "stalled closed": closed, "others closed": ended,
            "gaps": gaps, "others p50 ms": round(quantile(delays, 0.5), 2), "others p99 ms": round(quantile(delays, 0.99), 2),
        }

    figures = run(engine, work)
    for part in (crowd, lagging):
        part.process.kill()
    engine.end()
    return figures


def main():
    parts = sys.argv[1:] or ["limit", "slow"]
    raise_descriptors()
    os.sched_setaffinity(0, OTHERS)
    multiprocessing.set_start_method("fork")
    results = {}
    if "limit" in parts:
        rule = "{match: room, limit: {rate: 40/200ms, reserve: 20, over: %s}}"
        results |= {f"limit, {over}": (limited, rule % over) for over in ("drop", "sample")} | {"no rule": (limited, "")}
    if "slow" in parts:
        results["nobody stalls"] = (slow, "close", 0)
        results |= {f"slow: {policy}": (slow, policy) for policy in ("close", "dropOldest", "latest")}
    for name, (measure, *arguments) in results.items():
        results[name] = measure(*arguments)
        print(name, *(f"    {figure}: {value}" for figure, value in results[name].items()), sep="\n", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
