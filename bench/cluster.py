#!/usr/bin/env python3
"""A cluster under load, with and without nodes that are killed: does every message arrive, in order, and do the counts tell the truth?

    cargo build --release --features cluster && python3 bench/cluster.py [SECONDS]

Starts a center and three engines, each a process, on free ports of this machine. 1,000 clients of each engine subscribe to one channel, and
on each engine one back end publishes numbered messages to it, RATE (3) a second. For a third of SECONDS (180) nothing else happens: every
client must get every message, in each publisher's order, and each reply must count exactly the clients. Then CHURNERS (100) more clients of
each engine join and leave that channel and others at random, and every KILL (8) seconds an engine is killed with SIGKILL and
started again; its clients come back. For all who live during a publish, still nothing may be missing, or come twice or out of order (what
a killed engine had not yet written to its own clients is lost with it); and the count of a reply that names no unanswered node (u) lies
between those who were subscribed all the time, and those who may have been. It exits with 1 where that does not hold.

Needs Python 3 alone, and the program: CONNMIX names another one than target/release/connmix. SUBSCRIBERS, CHURNERS, RATE and KILL in the
environment change those figures.
"""

import asyncio
import collections
import itertools
import json
import os
import pathlib
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("CONNMIX", str(ROOT / "target" / "release" / "connmix"))
ENGINES = 3
SUBSCRIBERS = int(os.environ.get("SUBSCRIBERS", 1000))
CHURNERS = int(os.environ.get("CHURNERS", 100))
RATE = float(os.environ.get("RATE", 3))
KILL = float(os.environ.get("KILL", 8))
CHANNEL = "all"
ROOMS = 50
# So long an engine may take to serve, and a last message to arrive.
PATIENCE = 60
# So soon a killed engine is started again.
AGAIN = 1.0

SCRIPT = """
function on_message(msg, conn)
  local word, channel = msg.data:match("^(%S+) (%S+)$")
  local err
  if word == "join" then err = conn:subscribe(channel) else err = conn:unsubscribe(channel) end
  conn:send(err and ("error " .. err) or (word .. " " .. channel))
end
"""

CONFIG = """
logging: {filename: ''}
cluster: {secret: bench}
center:
  registry: {port: REGISTRY, bind: 127.0.0.1}
  apiServer: {port: CENTER, bind: 127.0.0.1}
engine:
  workers: 1
  centerRegistry: 127.0.0.1:REGISTRY
  meshPoint: {port: MESH, bind: 127.0.0.1}
  apiServer: {port: ENGINE, bind: 127.0.0.1}
  servers:
    - {port: CLIENTS, bind: 127.0.0.1, protocol: websocket, entry: entry.lua, options: [{name: path, value: /}]}
"""

UPGRADE = (b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")

now = time.monotonic


def free_ports(count):
    """Below those that the system gives to clients, so that a killed engine finds its own free again."""
    ports = []
    while len(ports) < count:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


class Node:
    """A process of the cluster, started again on the same ports."""

    def __init__(self, folder, role, registry, api, mesh, clients):
        self.role, self.api, self.clients = role, api, clients
        self.folder = pathlib.Path(folder, f"{role}-{api}")
        self.folder.mkdir()
        # A node uses the ports of its role.
        ports = {"REGISTRY": registry, "CENTER": 0, "ENGINE": 0, "MESH": mesh, "CLIENTS": clients, role.upper(): api}
        config = re.sub("[A-Z]{4,}", lambda name: str(ports[name[0]]), CONFIG)
        (self.folder / "connmix.yaml").write_text(config)
        (self.folder / "entry.lua").write_text(SCRIPT)
        self.process = None

    def start(self):
        # A file and no pipe: nobody needs to read it meanwhile.
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([BINARY, self.role], cwd=self.folder, stdout=log, stderr=log)

    async def ready(self):
        begun = now()
        while now() - begun < PATIENCE:
            if self.process.poll() is not None:
                sys.exit(f"{self.role} has ended:\n{(self.folder / 'log').read_text()[-2000:]}")
            try:
                if (await Http(self.api).call("GET", "/readyz"))[0] == 200:
                    return now() - begun
            except (OSError, EOFError):
                pass
            await asyncio.sleep(0.05)
        sys.exit(f"the {self.role} on {self.api} is not ready after {PATIENCE} s")

    def end(self, how):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
        if self.process:
            self.process.wait()


class Http:
    """One kept connection."""

    def __init__(self, port):
        self.port, self.streams = port, None

    async def call(self, method, path, body=""):
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        reply = await reader.readexactly(int(length[1]) if length else 0)
        return int(head.split(b" ", 2)[1]), reply

    def close(self):
        if self.streams:
            self.streams[1].close()


class Subscriber(asyncio.Protocol):
    """A client, with all that it got. It may lose its connection and come back."""

    def __init__(self, world, engine):
        self.world, self.engine = world, engine
        self.transport = self.answer = None
        self.buffer = b""
        self.upgraded = False
        # publisher: the last number, and which numbers came
        self.last, self.got = {}, {}
        # in the channel for certain: from, to, and if its engine was killed then, the last numbers that it had; perhaps: from, to
        self.certain, self.perhaps = [], []

    # What the transport calls.

    def connection_made(self, transport):
        self.transport, self.buffer, self.upgraded = transport, b"", False
        transport.write(UPGRADE)

    def connection_lost(self, error):
        self.transport = None
        if self.engine in self.world.down and self.certain and self.certain[-1][2] is None:
            # What its engine had not written yet is lost with it.
            self.certain[-1][2] = dict(self.last)
        self.left(now())
        if self.answer and not self.answer.done():
            self.answer.set_exception(ConnectionError("lost"))

    def data_received(self, data):
        data = self.buffer + data if self.buffer else data
        at = 0
        if not self.upgraded:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.buffer = data
                return
            if b" 101 " not in data[:end]:
                return self.transport.abort()
            self.upgraded, at = True, end + 4
            self.answer.set_result(None)
        while len(data) - at >= 2:
            size = data[at + 1]
            if size > 125:
                self.world.fail("a frame is longer than any that was sent")
                return self.transport.abort()
            if len(data) - at < 2 + size:
                break
            kind, payload = data[at], data[at + 2:at + 2 + size]
            at += 2 + size
            if kind == 0x81:
                self.take(payload)
            elif kind == 0x89:
                self.frame(0x8A, payload)
            elif kind == 0x88:
                if not self.world.stopping:
                    self.world.fail(f"a client was closed: {payload[2:].decode()}")
                return self.transport.abort()
        self.buffer = data[at:]

    # What a client does.

    def frame(self, first, payload):
        """The mask is zero, so that the payload stays as it is."""
        self.transport.write(bytes([first, 0x80 | len(payload)]) + bytes(4) + payload)

    def take(self, payload):
        if not payload.startswith(b"#"):
            if self.answer is None or self.answer.done():
                return self.world.fail(f"an answer that nobody asked for: {payload.decode()}")
            return self.answer.set_result(payload.decode())
        publisher, number = map(int, payload[1:].split())
        last = self.last.get(publisher, -1)
        if number == last or (number < last and self.got[publisher][number]):
            self.world.doubled += 1
        elif number < last:
            self.world.disordered += 1
        self.last[publisher] = max(last, number)
        got = self.got.setdefault(publisher, bytearray())
        got.extend(bytes(max(0, number + 1 - len(got))))
        got[number] = 1
        self.world.delivered += 1

    async def connect(self):
        self.answer = asyncio.get_running_loop().create_future()
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.engine.clients)
        await self.answer

    async def ask(self, text):
        if self.transport is None:
            raise ConnectionError("lost")
        self.answer = asyncio.get_running_loop().create_future()
        self.frame(0x81, text.encode())
        answer = await self.answer
        if answer != text:
            self.world.fail(f"{text}: {answer}")

    async def join(self, channel=CHANNEL):
        if channel == CHANNEL:
            self.perhaps.append([now(), float("inf")])
        await self.ask(f"join {channel}")
        if channel == CHANNEL and self.transport:
            self.certain.append([now(), float("inf"), None])

    async def leave(self, channel=CHANNEL):
        if channel == CHANNEL:
            self.uncertain(now())
        await self.ask(f"leave {channel}")
        if channel == CHANNEL:
            self.left(now())

    def uncertain(self, at):
        if self.certain and self.certain[-1][1] == float("inf"):
            self.certain[-1][1] = at

    def left(self, at):
        self.uncertain(at)
        if self.perhaps and self.perhaps[-1][1] == float("inf"):
            self.perhaps[-1][1] = at


# A publish whose reply came: when it was asked for and answered, its number, its counts.
Published = collections.namedtuple("Published", "publisher number asked answered reached unanswered")


class World:
    def __init__(self, folder):
        ports = free_ports(2 + 3 * ENGINES)
        registry = ports.pop()
        self.center = Node(folder, "center", registry, ports.pop(), 0, 0)
        self.engines = [Node(folder, "engine", registry, *(ports.pop() for _ in range(3))) for _ in range(ENGINES)]
        self.subscribers, self.churners, self.published = [], [], []
        self.publishers = itertools.count()
        self.delivered = self.doubled = self.disordered = self.refused = 0
        self.failures, self.kills, self.back = collections.Counter(), 0, []
        self.down = set()
        self.stopping = False

    def fail(self, why):
        self.failures[why] += 1

    async def start(self):
        for node in [self.center] + self.engines:
            node.start()
        for node in [self.center] + self.engines:
            await node.ready()
        self.subscribers = [Subscriber(self, engine) for engine in self.engines for _ in range(SUBSCRIBERS)]
        await self.enter(self.subscribers)

    async def enter(self, clients):
        """All of them connect and subscribe, some at a time."""
        room = asyncio.Semaphore(100)

        async def enter(client):
            async with room:
                await client.connect()
                await client.join()
        await asyncio.gather(*map(enter, clients))

    async def publish(self, engine, until):
        """One publisher. It ends with its engine."""
        publisher, http, begun = next(self.publishers), Http(engine.api), now()
        try:
            for number in itertools.count():
                if until.is_set():
                    return
                asked, body = now(), json.dumps({"c": CHANNEL, "d": f"#{publisher} {number}"})
                status, reply = await http.call("POST", "/v1/mesh/publish", body)
                reply = json.loads(reply)
                if status != 200 or reply["E"] is not None:
                    return self.fail(f"a publish is answered with {status} {reply['E']}")
                counts = reply["r"]
                if counts["f"]:
                    self.fail("a reply counts clients that could not take it (f)")
                self.published.append(Published(publisher, number, asked, now(), counts["s"], counts.get("u", 0)))
                await asyncio.sleep(max(0, begun + (number + 1) / RATE - now()))
        except (OSError, EOFError):
            if engine not in self.down and not until.is_set():
                self.fail("a back end has lost its connection to an engine that lives")
        finally:
            http.close()

    async def churn(self, client, until):
        """Joins and leaves at random, and comes back after its engine."""
        while not until.is_set():
            try:
                if client.transport is None:
                    if client.engine in self.down:
                        await asyncio.sleep(0.2)
                        continue
                    await client.connect()
                for channel in random.sample([CHANNEL] + [f"room:{i}" for i in range(ROOMS)], 3) + [CHANNEL]:
                    await client.join(channel)
                    await asyncio.sleep(random.random())
                    await client.leave(channel)
            except (OSError, EOFError):
                await asyncio.sleep(0.1)

    async def kill(self, engine, until):
        """Kills an engine, and starts it again, with its clients."""
        mine = [client for client in self.subscribers + self.churners if client.engine is engine]
        self.down.add(engine)
        for client in mine:
            client.uncertain(now())
        engine.end(signal.SIGKILL)
        self.kills += 1
        await asyncio.sleep(AGAIN)
        engine.start()
        self.back.append(await engine.ready())
        self.down.discard(engine)
        await self.enter([client for client in mine if client in self.subscribers])
        return asyncio.ensure_future(self.publish(engine, until))

    async def phase(self, seconds, hostile):
        until = asyncio.Event()
        publishing = [asyncio.ensure_future(self.publish(engine, until)) for engine in self.engines]
        others = []
        if hostile:
            self.churners = [Subscriber(self, engine) for engine in self.engines for _ in range(CHURNERS)]
            others = [asyncio.ensure_future(self.churn(client, until)) for client in self.churners]
        end = now() + seconds
        for engine in itertools.cycle(self.engines):
            await asyncio.sleep(min(KILL, max(0, end - now())))
            if now() >= end:
                break
            if hostile:
                publishing.append(await self.kill(engine, until))
        until.set()
        await asyncio.gather(*publishing, *others)
        # What is under way arrives.
        for _ in range(PATIENCE):
            if not any(self.missing()):
                break
            await asyncio.sleep(1)

    def missing(self):
        """Each publish that a client should have got, and has not."""
        for client in self.subscribers + self.churners:
            for since, until, last in client.certain:
                for publish in self.published:
                    written = last is None or publish.number <= last.get(publish.publisher, -1)
                    if since <= publish.asked and publish.answered <= until and written:
                        got = client.got.get(publish.publisher, b"")
                        if publish.number >= len(got) or not got[publish.number]:
                            yield client, publish

    def judge(self, name, kills):
        missing = list(self.missing())
        told = sum(1 for _, publish in missing if publish.unanswered)
        wrong = 0
        clients = self.subscribers + self.churners
        for publish in self.published:
            within = lambda spans: any(a <= publish.asked and publish.answered <= b for a, b, _ in spans)
            touches = lambda spans: any(a <= publish.answered and publish.asked <= b for a, b in spans)
            least = sum(1 for client in clients if within(client.certain))
            most = sum(1 for client in clients if touches(client.perhaps))
            right = publish.reached <= most if publish.unanswered else least <= publish.reached <= most
            if not kills:
                right = right and not publish.unanswered and least == most
            wrong += not right
        delays = sorted(publish.answered - publish.asked for publish in self.published)
        at = lambda part: delays[int(len(delays) * part)] * 1000 if delays else 0
        unanswered = sum(1 for publish in self.published if publish.unanswered)
        print(f"{name}: {len(self.published):,} publishes, {self.delivered:,} deliveries; missing {len(missing)} "
              f"(in {told} cases the reply says so), twice {self.doubled}, out of order {self.disordered}, "
              f"wrong counts {wrong}; replies p50 {at(.5):.1f} ms, p99 {at(.99):.1f} ms, longest {at(.9999):.0f} ms")
        if kills:
            again = f", ready after {min(self.back):.1f} to {max(self.back):.1f} s" if self.back else ""
            print(f"  engines killed: {self.kills}{again}; replies with an unanswered node (u): {unanswered}")
        for (engine, publisher), times in collections.Counter((c.engine.api, p.publisher) for c, p in missing).items():
            print(f"  {times} x missing on the engine {engine} of publisher {publisher}")
        for why, times in self.failures.items():
            print(f"  {times} x {why}")
        fine = not missing and not self.doubled and not self.disordered and not wrong and not self.failures
        self.published, self.delivered, self.failures = [], 0, collections.Counter()
        return fine

    def end(self):
        self.stopping = True
        for node in self.engines + [self.center]:
            node.end(signal.SIGKILL)


async def run(world, seconds):
    await world.start()
    print(f"{ENGINES} engines, {len(world.subscribers)} subscribers, {ENGINES * RATE:g} publishes a second", flush=True)
    await world.phase(seconds / 3, hostile=False)
    fine = world.judge("calm", kills=False)
    sys.stdout.flush()
    await world.phase(seconds * 2 / 3, hostile=True)
    return world.judge("kills and churn", kills=True) and fine


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 180
    wanted = ENGINES * (SUBSCRIBERS + CHURNERS) + 200
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(wanted, 1024), hard) if hard != -1 else wanted, hard))
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder)
        try:
            fine = asyncio.run(run(world, seconds))
        finally:
            world.end()
        if not fine or "LOGS" in os.environ:
            for node in [world.center] + world.engines:
                print(f"--- {node.folder.name}\n{(node.folder / 'log').read_text()[-6000:]}")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
