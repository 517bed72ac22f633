"""As much of a WebSocket client (RFC 6455) as the engine's API takes: text, pings, closing; no extensions."""

import asyncio
import base64
import hashlib
import os
import ssl
from urllib.parse import urlsplit

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
MAX_HEAD = 16 * 1024
MAX_MESSAGE = 64 * 1024 * 1024


class Closed(ConnectionError):
    """The connection has ended; `code` and `reason` of its close frame, 1006 where there was none."""

    def __init__(self, code, reason=""):
        super().__init__(f"closed with {code} {reason}".rstrip())
        self.code, self.reason = code, reason


class Refused(ConnectionError):
    """The handshake was answered with this HTTP status. From 500 on it is one of the moment: the engine stops, or a proxy finds none."""

    def __init__(self, status, line):
        super().__init__(f"refused with HTTP {line}")
        self.status = status


class WebSocket:
    """One connection, for one task that receives; any task may send."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, url, headers=(), tls=None):
        """Connects to an address such as http://host:port/path; https and wss with TLS, by `tls` (an `ssl.SSLContext`) if given."""
        parts = urlsplit(url)
        secure = parts.scheme in ("https", "wss")
        if not secure and parts.scheme not in ("http", "ws"):
            raise ValueError(f"no http, https, ws or wss: {parts.scheme or url!r}")
        port = parts.port or (443 if secure else 80)
        context = (tls or ssl.create_default_context()) if secure else None
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context, limit=MAX_HEAD)
        try:
            key = base64.b64encode(os.urandom(16)).decode()
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            lines = [f"GET {parts.path or '/'} HTTP/1.1", f"Host: {host}:{port}", "Connection: Upgrade", "Upgrade: websocket",
                     "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
            lines += [f"{name}: {value}" for name, value in headers]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            words = head[0].split(" ", 2)
            if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
                raise ConnectionError("no HTTP answer")
            if words[1] != "101":
                raise Refused(int(words[1]), " ".join(words[1:]))
            fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
            if fields.get("sec-websocket-accept") != accept:
                raise ConnectionError("the answer is to another handshake")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as e:
            writer.close()
            raise ConnectionError(f"the handshake was not answered: {e}") from None
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer)

    async def receive(self):
        """The next message, a str or bytes. Pings are answered meanwhile. Raises `Closed` at the end."""
        message, kind = bytearray(), None
        while True:
            try:
                first, second = await self.reader.readexactly(2)
                length = second & 0x7F
                if length >= 126:
                    length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8), "big")
                if second & 0x80 or length + len(message) > MAX_MESSAGE:
                    raise Closed(1002 if second & 0x80 else 1009, "a masked frame" if second & 0x80 else "a message too large")
                data = await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, OSError) as e:
                if isinstance(e, Closed):
                    raise
                raise Closed(1006, "the connection broke") from None
            opcode = first & 0x0F
            if opcode == PING:
                self.send_frame(PONG, data)
            elif opcode == CLOSE:
                self.send_frame(CLOSE, data[:2])
                raise Closed(int.from_bytes(data[:2], "big") if len(data) >= 2 else 1005, data[2:].decode(errors="replace"))
            elif opcode in (0, TEXT, BINARY):
                kind = opcode or kind
                message += data
                if first & 0x80:
                    return message.decode() if kind == TEXT else bytes(message)

    def send(self, text):
        """Puts a text on its way; nothing waits."""
        self.send_frame(TEXT, text.encode())

    def send_frame(self, opcode, data):
        if self.writer.is_closing():
            return
        length = len(data)
        head = bytearray([0x80 | opcode])
        if length < 126:
            head.append(0x80 | length)
        elif length < 65536:
            head += bytes([0x80 | 126]) + length.to_bytes(2, "big")
        else:
            head += bytes([0x80 | 127]) + length.to_bytes(8, "big")
        mask = os.urandom(4)
        # As one number: byte by byte takes a hundred times as long.
        stream = (mask * (length // 4 + 1))[:length]
        masked = (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(length, "big")
        self.writer.write(bytes(head) + mask + masked)

    async def drain(self):
        """Waits until what was sent is nearly on its way."""
        await self.writer.drain()

    def close(self, code=1000):
        """Says goodbye and ends the connection."""
        self.send_frame(CLOSE, code.to_bytes(2, "big"))
        self.writer.close()

    def abort(self):
        """Ends the connection without a word, for one that does not answer."""
        self.writer.transport.abort()
