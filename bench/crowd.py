"""What the scripts beside this one share that have many clients: WebSocket frames, connects without a library, and an engine that is
started for them."""

import os
import pathlib
import re
import resource
import signal
import socket
import struct
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.path.abspath(os.environ.get("CONNMIX", ROOT / "target" / "release" / "connmix"))
PATIENCE = 60

UPGRADE = (b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")


def room_for(descriptors):
    """Raises the limit of open files that this process and its children have, as far as the system lets it. Gives the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors, hard), max(descriptors, hard)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def text(word):
    """A client's frame; its mask is zero, so that the payload stays as it is."""
    size = len(word)
    length = bytes([0x80 | size]) if size < 126 else struct.pack(">BH", 0xFE, size)
    return b"\x81" + length + bytes(4) + word


def frames(buffer):
    """The whole frames of what a server has sent, each with its opcode and payload, and what is left."""
    found = []
    while len(buffer) >= 2:
        size, head = buffer[1] & 127, 2
        if size == 126:
            if len(buffer) < 4:
                break
            size, head = struct.unpack(">H", buffer[2:4])[0], 4
        if len(buffer) < head + size:
            break
        found.append((buffer[0] & 15, buffer[head:head + size]))
        buffer = buffer[head + size:]
    return found, buffer


def dial(port, source="127.0.0.1"):
    """A socket that is connected; from another source there are other ports."""
    made = socket.socket()
    made.settimeout(PATIENCE)
    made.bind((source, 0))
    made.connect(("127.0.0.1", port))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def until(made, end, buffer=b""):
    """Reads until `end` says that it is enough."""
    while not end(buffer):
        more = made.recv(65536)
        if not more:
            raise ConnectionError(f"closed after {buffer[:200]}")
        buffer += more
    return buffer


def hello(made, word):
    """Waits for the answers to an upgrade and to its first text. Nothing may be sent besides."""
    head = until(made, lambda buffer: b"\r\n\r\n" in buffer)
    status, rest = head.split(b"\r\n\r\n", 1)
    if b" 101 " not in status.split(b"\r\n")[0]:
        raise ConnectionError(status.split(b"\r\n")[0].decode())
    rest = until(made, lambda buffer: frames(buffer)[0], rest)
    found, rest = frames(rest)
    if found != [(1, word)] or rest:
        raise ConnectionError(f"not {word}: {found}")


class Engine:
    """A process, or its successor. Its log goes to a file in `folder`."""

    def __init__(self, folder, binary=BINARY, environment=()):
        self.folder, self.log = folder, pathlib.Path(folder, "log")
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen([binary, "single"], cwd=folder, stdout=log, stderr=log, env=os.environ | dict(environment))
        self.pid = self.child.pid
        said = self.wait_for(" is ready; ")
        self.ports = [int(port) for port in re.findall(r"serving clients on 127\.0\.0\.1:(\d+)", said)]
        self.api = int(re.search(r"API on 127\.0\.0\.1:(\d+)", said)[1])

    def wait_for(self, part):
        began = time.monotonic()
        while part not in (said := self.log.read_text(errors="replace")):
            if self.child.poll() is not None or time.monotonic() - began > PATIENCE:
                raise SystemExit(f"the engine does not say {part!r}:\n{said[-2000:]}")
            time.sleep(0.02)
        return said

    def lives(self):
        self.child.poll()
        return os.path.exists(f"/proc/{self.pid}")

    def stop(self):
        if self.lives():
            os.kill(self.pid, signal.SIGKILL)
        self.child.wait()
