#!/usr/bin/env python3
"""The binary of a loaded engine is replaced again and again: what its clients notice of it.

    cargo build --release && python3 bench/upgrade.py [--connections N] [--moves N] [--every SECONDS] [--workers N] [--subscribers N]
                                                      [--rate N] [--crash]

Half of N (20,000) connections are in a channel and check every message of a publisher that never pauses; the others are silent, and some
of them ask something each second. Besides, WAITING clients always have a handler that waits, HALF clients of a socket server are
always within a package, and somebody connects all the time. Every SECONDS (10) another build is put at the binary's path, which is
upgraded, MOVES (20) times. Prints how long each move took and how long nobody was served, the longest time between two deliveries to a client
while moves were under way and otherwise, and what must be 0: connections that were closed, connects that failed, messages that were
lost, doubled or out of order, wrong answers, wrong counts. Exits with 1 where any of these is not 0.

--subscribers says how many are in the channel instead of a half, and --rate lets the publisher send so many messages a second and no more:
where the clients have time to spare, the longest time is the engine's.

--crash: the new process ends at each of the points of its start at which a debug build can be told to (CONNMIX names one), MOVES times all of
them; the old one has to go on.

Needs Python 3 alone, and room for N descriptors and an eighth in each process. CONNMIX names another program than
target/release/connmix. The clients share the machine with the engine, and the longest times are as much theirs as its.
"""

import argparse
import multiprocessing
import os
import pathlib
import random
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque

from crowd import BINARY, UPGRADE, Engine, dial, frames, hello, room_for, text, until

WAITING = 100
HALF = 200
CROWDS = 2
PATIENCE = 120
POINTS = ["heard", "listeners", "started", "ready", "connections", "ids", "queue", "shared", "all", "received", "arrived"]

SCRIPT = """
function on_message(msg, conn)
  local seconds = msg.data:match('^wait (.*)')
  if seconds then
    return conn:send('waited ' .. tostring(mix.sleep(tonumber(seconds))))
  elseif msg.data == 'numbers' then
    conn:subscribe('numbers')
    mix.queue.push('topic', {n = 1})
    mix.shared.set('last', 1)
  end
  conn:send(msg.data)
end
"""

LINES = """
function protocol_input(buf) local at = buf:find('\\n') return at or 0 end
function protocol_decode(data) return data:sub(1, -2) end
function protocol_encode(data) return data .. '\\n' end
function on_message(msg, conn) conn:send('got ' .. msg .. '\\n') end
"""

CONFIG = """
logging: {filename: ''}
upgradeTimeout: 1s
center: {apiServer: {port: 0, bind: 127.0.0.1}}
engine:
  workers: %(workers)s
  apiServer: {port: 0, bind: 127.0.0.1}
  servers:
    - {port: 0, bind: 127.0.0.1, protocol: websocket, entry: entry.lua, readTimeout: 0, pingInterval: 0,
       options: [{name: path, value: /}]}
    - {port: 0, bind: 127.0.0.1, protocol: socket, entry: lines.lua, readTimeout: 0, messageTimeout: 0}
"""

# What a client of the channel gets: the numbers from 0 on, each in a frame of the same length.
DIGITS = 20
FRAME = 2 + DIGITS


def stream(first, many):
    return b"".join(b"\x81%c%020d" % (DIGITS, n) for n in range(first, first + many))


class Crowd:
    """A part of all clients, in a process of its own."""

    def __init__(self, number, ports, counts, told):
        self.number, self.ports, self.counts, self.told = number, ports, counts, told
        self.poll, self.kind, self.sockets = select.epoll(), {}, {}
        self.stream = stream(0, 20_000)
        # Of clients of the channel: how much of the stream has come, and when. Of one for which something else came, and of those within
        # a package: the number that is due.
        self.off, self.last, self.next = {}, {}, {}
        # By tenths of a second: the longest time between two deliveries that ended then.
        self.gaps = {}
        self.rest, self.expected = {}, {}
        self.wrong, self.examples = Counter(), []
        self.waits, self.answers = Counter(), 0
        self.slowest_connect = 0

    def note(self, what, example, many=1):
        self.wrong[what] += many
        if len(self.examples) < 5:
            self.examples.append(f"{what}: {example}")

    def open(self):
        """Connects all, some at a time."""
        source, opening = f"127.0.0.{2 + self.number}", deque()

        def finish():
            made, kind, begun = opening.popleft()
            if kind != "half":
                hello(made, b"numbers" if kind == "fan" else b"here")
            self.slowest_connect = max(self.slowest_connect, time.monotonic() - begun)
            made.setblocking(False)
            at = made.fileno()
            self.sockets[at], self.kind[at], self.rest[at] = made, kind, b""
            self.poll.register(at, select.EPOLLIN)
            if kind == "fan":
                self.off[at] = 0

        for kind, many in self.counts.items():
            for _ in range(many):
                made = dial(self.ports[kind == "half"], source)
                if kind != "half":
                    made.sendall(UPGRADE + text(b"numbers" if kind == "fan" else b"here"))
                opening.append((made, kind, time.monotonic()))
                if len(opening) >= 100:
                    finish()
        while opening:
            finish()

    def run(self):
        self.open()
        of = lambda kind: [at for at, known in self.kind.items() if known == kind]
        idle, waiting, half = of("idle"), of("wait"), of("half")
        self.told.send(self.slowest_connect)
        self.told.recv()
        for at in waiting:
            self.wait(at)
        for at in half:
            self.send(at, b"li")
            self.expected[at] = self.next[at] = 0
        self.poll.register(self.told.fileno(), select.EPOLLIN)
        asked = time.monotonic()
        messages, ending, answered = None, None, None
        while True:
            events = self.poll.poll(0.05, 512)
            now = time.monotonic()
            tenth, longest = int(now * 10), 0
            for at, _ in events:
                if at not in self.kind:
                    if at == self.told.fileno():
                        # So many were published.
                        messages, ending = self.told.recv(), now
                    continue
                try:
                    data = os.read(at, 65536)
                except BlockingIOError:
                    continue
                except OSError as error:
                    self.gone(at, error)
                    continue
                if at in self.off:
                    longest = max(longest, self.take(at, data, now))
                elif not data:
                    self.gone(at, "the end")
                else:
                    self.other(at, data)
            if longest > self.gaps.get(tenth, 0):
                self.gaps[tenth] = longest
            if ending is None and now - asked > 0.1:
                asked = now
                some = [at for at in random.sample(idle, min(len(idle), 20)) if at not in self.expected and at in self.kind]
                self.ask(some, now)
                for at in half:
                    # The rest of a package, and the beginning of the next one.
                    if at in self.kind:
                        self.expected[at] += 1
                        self.send(at, b"ne %d\nli" % (self.expected[at] - 1))
            elif ending is not None:
                if answered is None and all(at not in self.expected for at in idle):
                    # Every silent one is asked in the end.
                    answered = now
                    self.ask([at for at in idle if at in self.kind], now)
                behind = {at: messages - off // FRAME for at, off in self.off.items() if off < messages * FRAME}
                if (answered and not behind and not any(at in self.expected for at in idle)) or now - ending > PATIENCE:
                    break
        for many in behind.values():
            self.note("lost", f"{many} of {messages}", many)
        for at in [at for at in idle if at in self.expected]:
            self.note("unanswered", self.expected[at])
        got = sum(self.off.values()) // FRAME
        self.told.send((dict(self.wrong), self.examples, self.gaps, dict(self.waits), self.answers, got))

    def take(self, at, data, now):
        """What a client of the channel has got, in nearly all cases: gives how long that took since the last time."""
        if not data or not self.stream.startswith(data, self.off[at]):
            self.unexpected(at, data)
            return 0
        self.off[at] += len(data)
        gap = now - self.last.get(at, now)
        self.last[at] = now
        return gap

    def ask(self, which, now):
        for at in which:
            self.expected[at] = b"%d" % int(now * 1000)
            self.send(at, text(self.expected[at]))

    def wait(self, at):
        self.send(at, text(b"wait %.2f" % random.uniform(0.1, 2)))

    def send(self, at, data):
        try:
            self.sockets[at].send(data)
        except OSError as error:
            self.gone(at, error)

    def gone(self, at, why):
        self.note("closed", f"{self.kind[at]}: {why}")
        self.poll.unregister(at)
        del self.kind[at]
        self.expected.pop(at, None)
        self.off.pop(at, None)

    def unexpected(self, at, data):
        """What a client of the channel has got is more than was made so far; or not what comes next, and from then on it is read frame by
        frame."""
        if not data:
            return self.gone(at, "the end")
        off = self.off[at]
        if off + len(data) > len(self.stream):
            self.stream += stream(len(self.stream) // FRAME, 20_000)
            return self.take(at, data, time.monotonic())
        del self.off[at]
        # The beginning of a frame was as it should be.
        self.next[at], self.rest[at] = off // FRAME, self.stream[off - off % FRAME:off]
        self.other(at, data)

    def number(self, at, payload):
        number, due = int(payload) if payload.isdigit() else None, self.next[at]
        if number is None:
            return self.note("wrong", payload)
        if number > due:
            self.note("lost", f"{due} to {number - 1}", number - due)
        elif number < due:
            self.note("doubled or out of order", f"{number} where {due} was due")
        self.next[at] = max(due, number + 1)

    def other(self, at, data):
        kind = self.kind[at]
        if kind == "half":
            lines = (self.rest[at] + data).split(b"\n")
            self.rest[at] = lines.pop()
            for line in lines:
                if line != b"got line %d" % self.next[at]:
                    self.note("wrong", f"{line} for line {self.next[at]}")
                self.next[at] += 1
            return
        found, self.rest[at] = frames(self.rest[at] + data)
        for opcode, payload in found:
            if opcode == 8:
                return self.gone(at, payload)
            if kind == "fan":
                self.number(at, payload)
            elif kind == "wait":
                self.waits[payload.decode()] += 1
                if not payload.startswith(b"waited "):
                    self.note("wrong", payload)
                self.wait(at)
            elif payload == self.expected.pop(at, None):
                self.answers += 1
            else:
                self.note("wrong", f"{payload} to a silent one")


class Publisher:
    """Publishes one number after the other: so many a second, or without a pause (0)."""

    def __init__(self, api, subscribers, rate):
        self.api, self.subscribers, self.rate = api, subscribers, rate
        self.published, self.wrong, self.example = 0, 0, None
        self.slowest, self.ends = {}, False

    def run(self):
        made, first = None, time.monotonic()
        while not self.ends:
            if self.rate:
                time.sleep(max(0, first + self.published / self.rate - time.monotonic()))
            body = b'{"c":"numbers","d":"%020d"}' % self.published
            begun = time.monotonic()
            try:
                made = made or dial(self.api)
                made.sendall(b"POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                reply = until(made, lambda buffer: buffer.endswith(b"}"))
            except OSError as error:
                self.wrong, self.example = self.wrong + 1, f"number {self.published}: {error!r}"
                return
            now = time.monotonic()
            tenth = int(now * 10)
            self.slowest[tenth] = max(self.slowest.get(tenth, 0), now - begun)
            if b'"r":{"s":%d,"f":0}' % self.subscribers not in reply:
                self.wrong, self.example = self.wrong + 1, reply.decode()
            self.published += 1
            if b"connection: close" in reply.lower():
                made.close()
                made = None

    def run_in_process(self, told):
        thread = threading.Thread(target=self.run)
        thread.start()
        told.recv()
        self.ends = True
        thread.join()
        told.send((self.published, self.wrong, self.example, self.slowest))


class Newcomer(threading.Thread):
    """Connects again and again."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.came, self.failed, self.slowest, self.ends = port, 0, [], 0, False

    def run(self):
        while not self.ends:
            begun = time.monotonic()
            try:
                made = dial(self.port, "127.0.0.9")
                made.sendall(UPGRADE + text(b"new"))
                hello(made, b"new")
                made.close()
            except OSError as error:
                self.failed.append(repr(error))
            self.came += 1
            self.slowest = max(self.slowest, time.monotonic() - begun)
            time.sleep(0.02)


def crowd(*arguments):
    Crowd(*arguments).run()


def publisher(told, *arguments):
    Publisher(*arguments).run_in_process(told)


def resident(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def put(folder, build):
    """Puts a build at the path of the program, as `mv` does."""
    # A rename between two names of one file leaves both.
    pathlib.Path(folder, "connmix.new").unlink(missing_ok=True)
    os.link(pathlib.Path(folder, build), pathlib.Path(folder, "connmix.new"))
    os.replace(pathlib.Path(folder, "connmix.new"), pathlib.Path(folder, "connmix"))


def upgrade(engine, build):
    """Gives what the command said, when it began and when it ended."""
    put(engine.folder, build)
    begun = time.monotonic()
    done = subprocess.run([pathlib.Path(engine.folder, "one"), "upgrade", "-f", "connmix.yaml"], cwd=engine.folder, capture_output=True,
                          text=True)
    return done.returncode, (done.stdout + done.stderr).strip(), begun, time.monotonic()


def moves(engine, options):
    """All moves; gives when each began and ended, and whether all did what they had to."""
    times, good = [], True
    for move in range(options.moves):
        time.sleep(options.every)
        code, said, begun, ended = upgrade(engine, ("two", "one")[move % 2])
        times.append((begun, ended))
        found = re.search(r"process (\d+) has .* nobody was served for (\d+) ms", said)
        if code or not found:
            print(f"move {move + 1} failed: {said}")
            return times, False
        engine.pid = int(found[1])
        print(f"move {move + 1}: {ended - begun:.2f} s, nobody was served for {found[2]} ms; {said.split(';')[0]}, "
              f"{resident(engine.pid) / 1e6:.0f} MB", flush=True)
    return times, good


def crashes(engine, options):
    times, good = [], True
    for point in POINTS * options.moves:
        time.sleep(options.every)
        pathlib.Path(engine.folder, "crash").write_text(point)
        code, said, begun, ended = upgrade(engine, "two")
        times.append((begun, ended))
        print(f"crash at {point}: {ended - begun:.2f} s: {said.splitlines()[0]}", flush=True)
        if code != 1 or not engine.lives():
            print("the build does not crash there: a debug build is needed")
            return times, False
    pathlib.Path(engine.folder, "crash").write_text("")
    last, good = moves(engine, argparse.Namespace(moves=1, every=options.every))
    return times + last, good


def longest(gaps, times):
    """The longest of these, by tenths of seconds, while moves were under way or had just ended, and otherwise; in milliseconds."""
    within = lambda tenth: any(begun * 10 - 1 <= tenth <= ended * 10 + 5 for begun, ended in times)
    pick = lambda wanted: max((gap for tenth, gap in gaps.items() if within(tenth) == wanted), default=0) * 1000
    return pick(True), pick(False)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, default=20_000)
    parser.add_argument("--moves", type=int, default=None)
    parser.add_argument("--every", type=float, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--subscribers", type=int, default=None)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--crash", action="store_true")
    options = parser.parse_args()
    if options.moves is None:
        options.moves = 1 if options.crash else 20
    needed = options.connections * 8 // 7 + 500
    if room_for(needed) < needed:
        sys.exit(f"{options.connections} connections need {needed} descriptors (ulimit -n), and there are {room_for(needed)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, words in [("connmix.yaml", CONFIG % vars(options)), ("entry.lua", SCRIPT), ("lines.lua", LINES), ("crash", "")]:
            pathlib.Path(folder, name).write_text(words)
        shutil.copy(BINARY, pathlib.Path(folder, "one"))
        shutil.copy(BINARY, pathlib.Path(folder, "two"))
        with open(pathlib.Path(folder, "two"), "ab") as two:
            # The system does not care what stands behind the program.
            two.write(b"\0")
        put(folder, "one")
        engine = Engine(folder, str(pathlib.Path(folder, "connmix")), {"CONNMIX_CRASH_AT": str(pathlib.Path(folder, "crash"))})
        try:
            sys.exit(0 if judge(engine, options) else 1)
        finally:
            engine.stop()


def judge(engine, options):
    fan = options.connections // 2 if options.subscribers is None else options.subscribers
    left = options.connections - fan - WAITING - HALF
    share = lambda many, number: many // CROWDS + (number < many % CROWDS)
    parts = [{"fan": share(fan, n), "idle": share(left, n), "wait": share(WAITING, n), "half": share(HALF, n)} for n in range(CROWDS)]
    crowds, begun = [], time.monotonic()
    for number, counts in enumerate(parts):
        told, end = multiprocessing.Pipe()
        process = multiprocessing.Process(target=crowd, args=(number, engine.ports, counts, end), daemon=True)
        process.start()
        crowds.append((told, process))
    slowest = max(told.recv() for told, _ in crowds)
    print(f"{options.connections} connections in {time.monotonic() - begun:.1f} s, the slowest in {slowest * 1000:.0f} ms; "
          f"{resident(engine.pid) / 1e6:.0f} MB", flush=True)
    for told, _ in crowds:
        told.send("go")
    told, end = multiprocessing.Pipe()
    multiprocessing.Process(target=publisher, args=(end, engine.api, fan, options.rate), daemon=True).start()
    newcomer = Newcomer(engine.ports[0])
    newcomer.start()
    began = time.monotonic()
    times, good = crashes(engine, options) if options.crash else moves(engine, options)
    time.sleep(min(options.every, 2))
    seconds = time.monotonic() - began
    newcomer.ends = True
    newcomer.join()
    told.send("stop")
    published, wrong_counts, example, slow_calls = told.recv()
    all_gaps, wrong, waits = {}, Counter(), Counter()
    answers = delivered = 0
    for told, _ in crowds:
        told.send(published)
    for told, _ in crowds:
        wrongs, examples, gaps, waited, answered, got = told.recv()
        wrong.update(wrongs)
        waits.update(waited)
        answers, delivered = answers + answered, delivered + got
        for tenth, gap in gaps.items():
            all_gaps[tenth] = max(gap, all_gaps.get(tenth, 0))
        for words in examples:
            print(words)
    cut = sum(many for said, many in waits.items() if said != "waited nil")
    print(f"published {published} in {seconds:.0f} s, delivered {delivered}; {answers} questions of silent ones, {sum(waits.values())} waits of "
          f"handlers ({cut} cut), {newcomer.came} connects (the slowest {newcomer.slowest * 1000:.0f} ms)")
    for what, found in [("between two deliveries", all_gaps), ("for a publish", slow_calls)]:
        during, otherwise = longest(found, times)
        print(f"the longest time {what}: {during:.0f} ms around moves, {otherwise:.0f} ms otherwise")
    wrong["wrong counts"] += wrong_counts
    wrong["connects that failed"] += len(newcomer.failed)
    if example or newcomer.failed:
        print(example, newcomer.failed[:3])
    names = ["closed", "lost", "doubled or out of order", "wrong", "unanswered", "wrong counts", "connects that failed"]
    print(", ".join(f"{name}: {wrong[name]}" for name in names))
    return good and not any(wrong.values())


if __name__ == "__main__":
    main()
