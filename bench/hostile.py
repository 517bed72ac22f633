#!/usr/bin/env python3
"""A bad day for one worker, and what its well-behaved clients notice of it.

    cargo build --release && python3 bench/hostile.py [--each] [SECONDS [KIND ...]]

Starts an engine with one worker and four servers: plain, TLS, behind a proxy that sends PROXY headers, and with rates. All at once, for SECONDS
(30): 20 connections that send handlers of 50 ms without pause, 5 that loop (and come back), 10 that send messages in fragments of a
byte, 200 that subscribe and never read, a part of them over TLS, 1,000 with an unfinished message, 100 that begin a TLS handshake and
leave it, 20 that send garbage instead, 10 with PROXY headers that are none, 30 that guess passwords, 5 back ends that send calls
without reading answers, 5 that publish the largest batches to nobody, 5 that publish over /ws/v1 without waiting to a client and to
nobody, 5 that do so to a channel with 1,000 subscribers, 300 connects a second, 20 connections that send without pause where a client
has 100 messages a second, as many connects as go where there may be 20 a second. The script is saved every second, the
certificate is replaced every five. Meanwhile 500 clients on all three servers ask a question every second, and get a fan-out of 25
messages a second. It prints how long they waited for their answers, what was lost, who was closed, and the engine's memory before,
during and after, and exits with 1 where the answers' p99 is over two times handlerTimeout, or anything was lost, or a client was
closed. KIND: only these attacks, by the names of the functions below.

--each: one attack after the other, each with an engine of its own, and twice for SECONDS. For each it prints how long 200 well-behaved
clients waited before and meanwhile, and the engine's memory before, and 10 seconds after each time: what the first leaves is mostly
room for the next, what the second adds to it is lost. It exits with 1 where that is over 5 %. Needs Debian's package openssl.
"""

import asyncio
import base64
import json
import multiprocessing
import os
import pathlib
import re
import ssl
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("CONNMIX", str(ROOT / "target" / "release" / "connmix"))
HANDLER_TIMEOUT = 0.2
PUBLISHES = 25

SCRIPT = """
function on_message(msg, conn)
  if msg.data == "busy" then
    local deadline = mix.now() + 0.05
    while mix.now() < deadline do end
    return conn:send("done")
  elseif msg.data == "loop" then
    while true do end
  elseif msg.data == "subscribe" then
    conn:subscribe("news")
  elseif msg.data == "crowd" then
    conn:subscribe("crowd")
  end
  conn:send(msg.data)
end
"""

CONFIG = """
logging: {filename: ''}
trustedProxies: [127.0.0.1]
access: {users: [{username: bench, password: bench, roles: [read, write]}]}
center: {apiServer: {port: 0, bind: 127.0.0.1}}
engine:
  workers: 1
  apiServer: {port: 0, bind: 127.0.0.1}
  servers:
    - {port: 0, bind: 127.0.0.1, protocol: websocket, entry: entry.lua, options: [{name: path, value: /}]}
    - port: 0
      bind: 127.0.0.1
      protocol: websocket
      entry: entry.lua
      options: [{name: path, value: /}]
      tls: {cert: cert.pem, key: key.pem}
    - {port: 0, bind: 127.0.0.1, protocol: websocket, entry: entry.lua, options: [{name: path, value: /}], proxyProtocol: v1v2}
    - port: 0
      bind: 127.0.0.1
      protocol: websocket
      entry: entry.lua
      options: [{name: path, value: /}]
      rate: {connects: 20/s, messages: 100/s}
"""

UPGRADE = (b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")


def frame(first, payload):
    """A client's frame; its mask is zero, so that the payload stays as it is."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else struct.pack(">BH", 0xFE, size)
    return bytes([first]) + length + bytes(4) + payload


def text(word):
    return frame(0x81, word.encode())


PLAIN, TLS, PROXIED, LIMITED = range(4)
TRUSTING = ssl.create_default_context()
TRUSTING.check_hostname, TRUSTING.verify_mode = False, ssl.CERT_NONE


async def connect(ports, way=PLAIN):
    """`ports`: those of the servers; `way`: which of them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ports[way], ssl=TRUSTING if way == TLS else None)
    if way == PROXIED:
        writer.write(b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 80\r\n")
    writer.write(UPGRADE)
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 101 " not in head:
        raise ConnectionError(head.split(b"\r\n")[0].decode())
    return reader, writer


async def receive(reader, writer):
    """The next text; pings are answered. An end is an error."""
    while True:
        first, size = await reader.readexactly(2)
        if size == 126:
            size, = struct.unpack(">H", await reader.readexactly(2))
        payload = await reader.readexactly(size)
        if first == 0x89:
            writer.write(frame(0x8A, payload))
        elif first == 0x88:
            raise ConnectionError(f"closed: {payload[2:].decode()}")
        else:
            return payload


# The bad ones. Each goes on until it is cancelled, and connects again after an error of its connection.

async def again(work, *arguments):
    while True:
        try:
            await work(*arguments)
        except (OSError, EOFError, ConnectionError):
            await asyncio.sleep(0.05)


async def heavy(ports):
    reader, writer = await connect(ports)
    writer.write(text("busy") * 50)
    while True:
        await receive(reader, writer)
        writer.write(text("busy"))


async def looping(ports):
    reader, writer = await connect(ports)
    writer.write(text("loop"))
    await receive(reader, writer)


async def fragments(ports):
    reader, writer = await connect(ports)
    part = frame(0x01, b"x") + frame(0x00, b"x") * 8000 + frame(0x80, b"x")
    while True:
        writer.write(part)
        await writer.drain()
        await receive(reader, writer)


async def stalled(ports, way):
    reader, writer = await connect(ports, way)
    writer.transport.pause_reading()
    writer.write(text("subscribe"))
    await asyncio.sleep(3600)


async def unfinished(ports):
    _, writer = await connect(ports)
    writer.write(b"\x81\xff" + struct.pack(">Q", 1 << 20) + bytes(4) + b"x" * 50_000)
    await asyncio.sleep(3600)


async def half_tls(ports):
    """A client hello is longer: the server waits for the rest."""
    _, writer = await asyncio.open_connection("127.0.0.1", ports[TLS])
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(40))
    await asyncio.sleep(3600)


async def no_tls(ports):
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[TLS])
        writer.write(b"\x16\x03\x01\x00\x80" + os.urandom(128))
        await reader.read()
        writer.close()
        await asyncio.sleep(0.05)


async def no_proxy(ports):
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[PROXIED])
        writer.write(b"PROXY TCP4 999.1.1.1 " + os.urandom(100) + b"\r\n")
        await reader.read()
        writer.close()
        await asyncio.sleep(0.05)


def call(body):
    right = base64.b64encode(b"bench:bench").decode()
    return (f"POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {right}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}").encode()


async def deaf(api):
    reader, writer = await asyncio.open_connection("127.0.0.1", api)
    writer.transport.pause_reading()
    one = call(json.dumps({"c": "nobody", "d": "x"})) * 50
    while True:
        writer.write(one)
        await writer.drain()


async def batches(api):
    reader, writer = await asyncio.open_connection("127.0.0.1", api)
    batch = call(json.dumps([{"c": [f"nobody:{i}" for i in range(1000)], "d": "x" * 1000}]))
    while True:
        writer.write(batch)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))


async def pour(reader, writer, what):
    """Writes that again and again, and reads what comes."""
    async def read():
        while await reader.read(1 << 16):
            pass
        raise ConnectionError("the end")

    async def write():
        while True:
            writer.write(what)
            await writer.drain()
    await asyncio.gather(read(), write())


async def open_websocket(api):
    reader, writer = await asyncio.open_connection("127.0.0.1", api)
    right = base64.b64encode(b"bench:bench").decode()
    writer.write(UPGRADE.replace(b"GET /", b"GET /ws/v1").replace(b"\r\n\r\n", f"\r\nAuthorization: Basic {right}\r\n\r\n".encode()))
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def over_websocket(api, params):
    await pour(*await open_websocket(api), text(json.dumps({"m": "mesh.publish", "p": params})) * 8)


async def websockets(api):
    await over_websocket(api, {"c": ["one"] + ["nobody"] * 999, "d": "x"})


async def crowds(api):
    await over_websocket(api, {"c": "crowd", "d": "x"})


async def crowd(ports):
    """One of the crowd: it reads, in the cheapest way."""
    reader, writer = await connect(ports)
    writer.write(text("crowd"))
    while await reader.read(1 << 16):
        pass
    raise ConnectionError("closed")


async def guessing(api):
    reader, writer = await asyncio.open_connection("127.0.0.1", api)
    wrong = base64.b64encode(b"bench:guess").decode()
    while True:
        writer.write(f"POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {wrong}\r\n"
                     "Content-Length: 2\r\n\r\n{}".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))


async def connects(ports):
    while True:
        begun = time.monotonic()
        try:
            _, writer = await connect(ports)
            writer.close()
        except (OSError, EOFError, ConnectionError):
            pass
        await asyncio.sleep(max(0, 0.1 - (time.monotonic() - begun)))


async def flooding(ports):
    await pour(*await connect(ports, LIMITED), text("x") * 100)


async def hurried(ports):
    """Most are refused: the server has used its connects up."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[LIMITED])
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()


async def saves(folder):
    """Saves that change nothing but their time: all connections live through them."""
    for number in range(1 << 30):
        pathlib.Path(folder, "entry.lua").write_text(f"-- {number}\n{SCRIPT}")
        if number % 5 == 0:
            certificate(folder)
        await asyncio.sleep(1)


def certificate(folder):
    """Made beside the one in use and moved over it, key first."""
    new = ["new.key.pem", "new.cert.pem"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-keyout", new[0], "-out", new[1]],
                   cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name in new:
        os.replace(pathlib.Path(folder, name), pathlib.Path(folder, name.removeprefix("new.")))


def kinds(ports, api, folder):
    """What goes on at once: a function, how often, its arguments."""
    return [(heavy, 20, ports), (looping, 5, ports), (fragments, 10, ports), (stalled, 150, ports, PLAIN),
            (stalled, 50, ports, TLS), (unfinished, 1000, ports), (half_tls, 100, ports), (no_tls, 20, ports),
            (no_proxy, 10, ports), (guessing, 30, api), (deaf, 5, api), (batches, 5, api), (websockets, 5, api),
            (crowd, 1000, ports), (crowds, 5, api), (connects, 30, ports), (flooding, 20, ports), (hurried, 10, ports),
            (saves, 1, folder)]


def attack(ports, api, folder, names):
    async def main():
        tasks = [asyncio.ensure_future(again(work, *at)) for work, many, *at in kinds(ports, api, folder)
                 if not names or work.__name__ in names for _ in range(many)]
        await asyncio.gather(*tasks)
    asyncio.run(main())


# The good ones.

class Client:
    def __init__(self, delays):
        self.delays = delays
        self.asked = None
        self.next = None
        self.lost = self.got = self.answers = 0
        self.end = None

    async def run(self, ports, way, offset):
        asking = asyncio.ensure_future(asyncio.sleep(0))
        try:
            reader, writer = await connect(ports, way)
            writer.write(text("subscribe"))
            asking = asyncio.ensure_future(self.ask(writer, offset))
            while True:
                self.take(await receive(reader, writer))
        except (OSError, EOFError, ConnectionError) as error:
            self.end = error
        finally:
            asking.cancel()

    async def ask(self, writer, offset):
        await asyncio.sleep(offset)
        while True:
            if self.asked is None:
                self.asked = time.monotonic()
                writer.write(text("question"))
            await asyncio.sleep(1)

    def take(self, message):
        if message == b"question":
            self.delays.append(time.monotonic() - self.asked)
            self.asked = None
            self.answers += 1
        elif message.startswith(b"n"):
            number = int(message[1:])
            if self.next is not None:
                self.lost += number - self.next
            self.next = number + 1
            self.got += 1


async def publish(api, stop, waited):
    reader, writer = await asyncio.open_connection("127.0.0.1", api)
    number, began = 0, time.monotonic()
    while not stop.is_set():
        called = time.monotonic()
        writer.write(call(json.dumps({"c": "news", "d": f"n{number}"})))
        head = await reader.readuntil(b"\r\n\r\n")
        reply = await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
        if b'"E":null' not in reply:
            raise ConnectionError(reply.decode())
        waited.append(time.monotonic() - called)
        number += 1
        await asyncio.sleep(max(0, began + number / PUBLISHES - time.monotonic()))
    return number


def resident(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def good(ports, api, pid, folder, seconds, names):
    delays, calls, stop = [], [], asyncio.Event()
    clients = [Client(delays) for _ in range(500)]
    tasks = [asyncio.ensure_future(client.run(ports, i % 3, i / 500)) for i, client in enumerate(clients)]
    await asyncio.sleep(2)
    publishing = asyncio.ensure_future(publish(api, stop, calls))
    await asyncio.sleep(3)
    calm = sorted(delays)
    delays.clear()
    before = resident(pid)
    calls.clear()
    bad = multiprocessing.Process(target=attack, args=(ports, api, folder, names), daemon=True)
    bad.start()
    memory = []
    for _ in range(int(seconds)):
        await asyncio.sleep(1)
        memory.append(resident(pid))
    stop.set()
    published = await publishing
    unanswered = [time.monotonic() - client.asked for client in clients if client.asked]
    bad.terminate()
    await asyncio.sleep(20)
    after = resident(pid)
    for task in tasks:
        task.cancel()
    waited = sorted(delays + unanswered)
    at = lambda times, part: times[min(len(times) - 1, int(len(times) * part))] * 1000
    closed = [client.end for client in clients if client.end]
    lost = sum(client.lost for client in clients)
    print(f"answers before: {len(calm)}, p50 {at(calm, .5):.1f} ms, p99 {at(calm, .99):.1f} ms")
    print(f"answers: {len(waited)}, p50 {at(waited, .5):.1f} ms, p99 {at(waited, .99):.1f} ms, longest {waited[-1] * 1000:.1f} ms")
    calls.sort()
    print(f"the caller's: {len(calls)}, p50 {at(calls, .5):.1f} ms, p99 {at(calls, .99):.1f} ms, longest {calls[-1] * 1000:.1f} ms")
    print(f"published {published}, delivered {sum(client.got for client in clients)}, lost {lost}")
    print(f"clients that were closed: {len(closed)} {closed[:3]}")
    fifth = max(1, len(memory) // 5)
    parts = [max(memory[i:i + fifth]) / 1e6 for i in range(0, len(memory), fifth)]
    print(f"the engine's memory: {before / 1e6:.0f} MB before, {' '.join(f'{part:.0f}' for part in parts)} MB at most in each fifth, "
          f"{after / 1e6:.0f} MB 20 seconds after")
    return not closed and lost == 0 and at(waited, .99) <= 2000 * HANDLER_TIMEOUT


async def twice(ports, api, pid, folder, seconds, names):
    """The same attack two times: what well-behaved clients notice of it, and what it leaves."""
    delays, stop = [], asyncio.Event()
    clients = [Client(delays) for _ in range(200)]
    tasks = [asyncio.ensure_future(client.run(ports, i % 3, i / 200)) for i, client in enumerate(clients)]
    publishing = asyncio.ensure_future(publish(api, stop, []))
    await asyncio.sleep(3)
    delays.clear()
    await asyncio.sleep(10)
    p99 = lambda: sorted(delays)[int(len(delays) * .99)] * 1000 if delays else float("inf")
    waited, memory = [p99()], [resident(pid)]
    for _ in range(2):
        delays.clear()
        bad = multiprocessing.Process(target=attack, args=(ports, api, folder, names), daemon=True)
        bad.start()
        await asyncio.sleep(seconds)
        waited.append(p99())
        bad.terminate()
        await asyncio.sleep(10)
        memory.append(resident(pid))
    stop.set()
    await publishing
    for task in tasks:
        task.cancel()
    closed, lost = sum(client.end is not None for client in clients), sum(client.lost for client in clients)
    grown = memory[2] / memory[1]
    print(f"{names[0]}: p99 {waited[0]:.1f} ms before, {waited[1]:.1f} and {waited[2]:.1f} ms meanwhile; "
          f"{' '.join(f'{bytes / 1e6:.1f}' for bytes in memory)} MB ({grown:.3f}); lost {lost}, closed {closed}", flush=True)
    return not closed and lost == 0 and grown <= 1.05


def main():
    arguments = sys.argv[1:]
    each = arguments[:1] == ["--each"]
    arguments = arguments[each:]
    seconds = float(arguments[0]) if arguments else 10 if each else 30
    names = arguments[1:]
    if not each:
        sys.exit(0 if run(good, seconds, names) else 1)
    names = names or list(dict.fromkeys(work.__name__ for work, *_ in kinds(None, None, None)))
    # Each is run, whatever became of the one before.
    sys.exit(0 if all([run(twice, seconds, [name]) for name in names]) else 1)


def run(judge, seconds, names):
    """Starts an engine and has it judged."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "connmix.yaml").write_text(CONFIG)
        pathlib.Path(folder, "entry.lua").write_text(SCRIPT)
        certificate(folder)
        engine = subprocess.Popen([BINARY, "single"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            ports, api = [], None
            while api is None:
                line = engine.stdout.readline().decode()
                if not line:
                    sys.exit("the engine does not start")
                ports += [int(port) for port in re.findall(r"serving clients on 127\.0\.0\.1:(\d+)", line)]
                if found := re.search(r"API on 127\.0\.0\.1:(\d+)", line):
                    api = int(found[1])
            drain = multiprocessing.Process(target=lambda: [None for _ in engine.stdout], daemon=True)
            drain.start()
            return asyncio.run(judge(ports, api, engine.pid, folder, seconds, names))
        finally:
            engine.terminate()
            engine.wait()
            drain.terminate()


if __name__ == "__main__":
    main()
