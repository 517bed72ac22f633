#!/usr/bin/env python3
"""What compression saves and costs: bytes and CPU time of a delivery, beside nchan, in one sitting.

    cargo build --release && python3 bench/compression.py [RUNS]

1,000 subscribers of one channel get 300 texts of about a kilobyte each (JSON, as a chat or a quotes board has it), one publish after
the other, with permessage-deflate and without. The server has core 0, the clients core 1. It prints medians of RUNS runs (3): bytes
on the wire for a delivery, and CPU time of the server for one. Needs Debian's packages nginx and libnginx-mod-nchan.
"""

import asyncio
import http.client
import json
import os
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("CONNMIX", str(ROOT / "target" / "release" / "connmix"))
SUBSCRIBERS, MESSAGES = 1000, 300
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"

CONFIG = """
logging: {filename: '', level: warn}
center: {apiServer: {port: 8098, bind: 127.0.0.1}}
engine:
  workers: 1
  apiServer: {port: 8097, bind: 127.0.0.1}
  servers: [{port: 8099, bind: 127.0.0.1, entry: entry.lua, compression: on, options: [{name: path, value: /}]}]
"""
SCRIPT = "function on_message(msg, conn) conn:subscribe('room') conn:send('in') end\n"

NGINX = """
load_module modules/ngx_nchan_module.so;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path temp;
  proxy_temp_path temp;
  fastcgi_temp_path temp;
  uwsgi_temp_path temp;
  scgi_temp_path temp;
  server {
    listen 127.0.0.1:8089 backlog=4096;
    location = /publish { nchan_publisher; nchan_channel_id $arg_channel; nchan_message_buffer_length 0;
                          nchan_deflate_message_for_websocket on; }
    location = /subscribe { nchan_subscriber websocket; nchan_channel_id $arg_channel; }
  }
}
"""


def texts():
    """The same for all: names, numbers and words that recur, as in real messages."""
    chance = random.Random(7)
    words = "the room is open and we meet at noon for a match of two teams with songs before it starts again".split()
    for number in range(MESSAGES):
        said = [{"user": f"user-{chance.randrange(10_000)}", "color": "#%06x" % chance.randrange(1 << 24),
                 "text": " ".join(chance.choices(words, k=12))} for _ in range(8)]
        yield json.dumps({"event": "barrage", "number": number, "messages": said})


async def open_socket(port, path, offer):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                 f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert " 101 " in head, head
    assert not offer or "permessage-deflate" in head, head
    return reader, writer


class Subscriber:
    """Counts bytes and messages."""
    bytes = messages = 0

    async def run(self, reader):
        held = b""
        while chunk := await reader.read(1 << 18):
            self.bytes += len(chunk)
            held += chunk
            at = 0
            while len(held) - at >= 2:
                size, head = held[at + 1], 2
                if size == 126 and len(held) - at >= 4:
                    size, head = struct.unpack(">H", held[at + 2:at + 4])[0], 4
                if len(held) - at < head + size:
                    break
                self.messages += held[at] & 0x0F in (1, 2)
                at += head + size
            held = held[at:]


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(pid, port, path, hello, publish_at, body, offer):
    sockets = [await open_socket(port, path, offer) for _ in range(SUBSCRIBERS)]
    if hello:
        for reader, writer in sockets:
            writer.write(hello)
            await reader.readexactly(4)
    subscribers = [Subscriber() for _ in sockets]
    tasks = [asyncio.ensure_future(one.run(reader)) for one, (reader, _) in zip(subscribers, sockets)]
    await asyncio.sleep(0.5)
    before = cpu(pid)
    caller = http.client.HTTPConnection("127.0.0.1", publish_at[0])
    for number, text in enumerate(texts(), 1):
        caller.request("POST", publish_at[1], body(text))
        answer = caller.getresponse()
        assert answer.status < 300, answer.status
        answer.read()
        while sum(one.messages for one in subscribers) < number * SUBSCRIBERS:
            await asyncio.sleep(0)
    spent = cpu(pid) - before
    for task in tasks:
        task.cancel()
    for _, writer in sockets:
        writer.close()
    deliveries = SUBSCRIBERS * MESSAGES
    return sum(one.bytes for one in subscribers) / deliveries, spent / deliveries * 1e6


def ours(folder, offer):
    pathlib.Path(folder, "connmix.yaml").write_text(CONFIG)
    pathlib.Path(folder, "entry.lua").write_text(SCRIPT)
    server = subprocess.Popen(["taskset", "-c", "0", BINARY, "single"], cwd=folder)
    try:
        time.sleep(1)
        body = lambda text: json.dumps({"c": "room", "d": text})
        return asyncio.run(measure(server.pid, 8099, "/", b"\x81\x81\0\0\0\0x", (8097, "/v1/mesh/publish"), body, offer))
    finally:
        server.terminate()
        server.wait()


def nchan(folder, offer):
    pathlib.Path(folder, "nginx.conf").write_text(NGINX)
    pathlib.Path(folder, "temp").mkdir(exist_ok=True)
    if not pathlib.Path(folder, "modules").exists():
        pathlib.Path(folder, "modules").symlink_to("/usr/lib/nginx/modules")
    server = subprocess.Popen(["taskset", "-c", "0", "nginx", "-p", folder, "-c", "nginx.conf", "-g", "daemon off;"])
    try:
        time.sleep(1)
        worker = int(pathlib.Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()[0])
        return asyncio.run(measure(worker, 8089, "/subscribe?channel=room", b"", (8089, "/publish?channel=room"), str, offer))
    finally:
        server.terminate()
        server.wait()


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as folder:
        for what, offer in [("plain", ""), ("compressed", OFFER)]:
            came = {"ours": [], "nchan": []}
            for _ in range(runs):
                came["ours"].append(ours(folder, offer))
                came["nchan"].append(nchan(folder, offer))
            for who, figures in came.items():
                on_wire, spent = (statistics.median(part) for part in zip(*figures))
                print(f"{what}, {who}: {on_wire:.0f} bytes and {spent:.2f} us of CPU time a delivery", flush=True)


if __name__ == "__main__":
    main()
