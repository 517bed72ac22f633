#!/usr/bin/env python3
"""A bad day for one worker, and what its well-behaved clients notice of it.

    cargo build --release && python3 bench/hostile.py [SECONDS [KIND ...]]

Starts an engine with one worker. All at once, for SECONDS (30), or only those that are named:

    heavy         20 connections that send handlers of 50 ms without pause
    looping       5 that loop, and come back
    fragments     10 that send messages in fragments of a byte
    stalled       200 that subscribe and never read
    unfinished    1,000 with an unfinished message
    guessing      30 that guess passwords
    connects      300 connects a second
    websockets    5 callers that publish over /ws/v1 without waiting: to a client, and a thousand times to nobody
    crowds        5 that do so to a channel with 1,000 subscribers
    batches       5 that send the largest batches over HTTP without waiting

Meanwhile 500 clients ask a question every second, and get a fan-out of 25 messages a second from a caller that waits for each. It
prints how long they waited for their answers, and the caller for its own, what was lost, who was closed, and the engine's memory. It
exits with 1 where the p99 of the clients' answers is over two times handlerTimeout, or anything was lost, or a client was closed.
"""

import asyncio
import base64
import json
import multiprocessing
import os
import pathlib
import re
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
access: {users: [{username: bench, password: bench, roles: [read, write]}]}
center: {apiServer: {port: 0, bind: 127.0.0.1}}
engine:
  workers: 1
  apiServer: {port: 0, bind: 127.0.0.1}
  servers:
    - {port: 0, bind: 127.0.0.1, protocol: websocket, entry: entry.lua, options: [{name: path, value: /}]}
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


async def connect(port, upgrade=UPGRADE):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(upgrade)
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


async def heavy(port):
    reader, writer = await connect(port)
    writer.write(text("busy") * 50)
    while True:
        await receive(reader, writer)
        writer.write(text("busy"))


async def looping(port):
    reader, writer = await connect(port)
    writer.write(text("loop"))
    await receive(reader, writer)


async def fragments(port):
    reader, writer = await connect(port)
    part = frame(0x01, b"x") + frame(0x00, b"x") * 8000 + frame(0x80, b"x")
    while True:
        writer.write(part)
        await writer.drain()
        await receive(reader, writer)


async def stalled(port):
    reader, writer = await connect(port)
    writer.transport.pause_reading()
    writer.write(text("subscribe"))
    await asyncio.sleep(3600)


async def unfinished(port):
    _, writer = await connect(port)
    writer.write(b"\x81\xff" + struct.pack(">Q", 1 << 20) + bytes(4) + b"x" * 50_000)
    await asyncio.sleep(3600)


async def guessing(api):
    reader, writer = await asyncio.open_connection("127.0.0.1", api)
    wrong = base64.b64encode(b"bench:guess").decode()
    while True:
        writer.write(f"POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {wrong}\r\n"
                     "Content-Length: 2\r\n\r\n{}".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))


async def connects(port):
    while True:
        begun = time.monotonic()
        try:
            _, writer = await connect(port)
            writer.close()
        except (OSError, EOFError, ConnectionError):
            pass
        await asyncio.sleep(max(0, 0.1 - (time.monotonic() - begun)))


RIGHT = base64.b64encode(b"bench:bench").decode()


def request(body):
    return (f"POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {RIGHT}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}").encode()


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


async def over_websocket(api, params):
    upgrade = UPGRADE.replace(b"GET /", b"GET /ws/v1").replace(b"\r\n\r\n", f"\r\nAuthorization: Basic {RIGHT}\r\n\r\n".encode())
    await pour(*await connect(api, upgrade), text(json.dumps({"m": "mesh.publish", "p": params})) * 8)


async def websockets(api):
    await over_websocket(api, {"c": ["one"] + ["nobody"] * 999, "d": "x"})


async def crowds(api):
    await over_websocket(api, {"c": "crowd", "d": "x"})


async def crowd(port):
    """One of the crowd: it reads, in the cheapest way."""
    reader, writer = await connect(port)
    writer.write(text("crowd"))
    while await reader.read(1 << 16):
        pass
    raise ConnectionError("closed")


async def batches(api):
    await pour(*await asyncio.open_connection("127.0.0.1", api), request(json.dumps([{"c": "nobody", "d": "x" * 1000}] * 1000)))


KINDS = {"heavy": [(heavy, 20, False)], "looping": [(looping, 5, False)], "fragments": [(fragments, 10, False)],
         "stalled": [(stalled, 200, False)], "unfinished": [(unfinished, 1000, False)], "guessing": [(guessing, 30, True)],
         "connects": [(connects, 30, False)], "websockets": [(websockets, 5, True)],
         "crowds": [(crowd, 1000, False), (crowds, 5, True)], "batches": [(batches, 5, True)]}


def attack(port, api, kinds):
    async def main():
        tasks = [asyncio.ensure_future(again(work, api if of_the_api else port))
                 for kind in kinds for work, many, of_the_api in KINDS[kind] for _ in range(many)]
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

    async def run(self, port, offset):
        try:
            reader, writer = await connect(port)
            writer.write(text("subscribe"))
            asking = asyncio.ensure_future(self.ask(writer, offset))
            while True:
                self.take(await receive(reader, writer))
        except (OSError, EOFError, ConnectionError) as error:
            self.end = error
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
        writer.write(request(json.dumps({"c": "news", "d": f"n{number}"})))
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


async def good(port, api, pid, seconds, kinds):
    delays, calls, stop = [], [], asyncio.Event()
    clients = [Client(delays) for _ in range(500)]
    tasks = [asyncio.ensure_future(client.run(port, i / 500)) for i, client in enumerate(clients)]
    await asyncio.sleep(2)
    publishing = asyncio.ensure_future(publish(api, stop, calls))
    await asyncio.sleep(3)
    calm = sorted(delays)
    delays.clear()
    calls.clear()
    bad = multiprocessing.Process(target=attack, args=(port, api, kinds), daemon=True)
    bad.start()
    most = 0
    for _ in range(int(seconds)):
        await asyncio.sleep(1)
        most = max(most, resident(pid))
    stop.set()
    published = await publishing
    unanswered = [time.monotonic() - client.asked for client in clients if client.asked]
    bad.terminate()
    await asyncio.sleep(1)
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
    print(f"the engine's memory: {most / 1e6:.0f} MB at most")
    return not closed and lost == 0 and at(waited, .99) <= 2000 * HANDLER_TIMEOUT


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30
    kinds = sys.argv[2:] or list(KINDS)
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "connmix.yaml").write_text(CONFIG)
        pathlib.Path(folder, "entry.lua").write_text(SCRIPT)
        engine = subprocess.Popen([BINARY, "single"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            ports = {}
            while len(ports) < 2:
                line = engine.stdout.readline().decode()
                for key, pattern in (("port", r"serving clients on 127\.0\.0\.1:(\d+)"), ("api", r"API on 127\.0\.0\.1:(\d+)")):
                    if found := re.search(pattern, line):
                        ports[key] = int(found[1])
            drain = multiprocessing.Process(target=lambda: [None for _ in engine.stdout], daemon=True)
            drain.start()
            fine = asyncio.run(good(ports["port"], ports["api"], engine.pid, seconds, kinds))
        finally:
            engine.terminate()
            engine.wait()
            drain.terminate()
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
