"""A client that does not keep up: it takes nothing for five seconds, and then tells what it gets: python3 slow.py [BOARD]"""

import base64, json, os, socket, struct, sys, time
from urllib.parse import urlsplit

PAUSE, READ = 5, 2


def connect(url):
    """A WebSocket, without a check of the server's answer but its status. Little fits into its receive buffer."""
    url = urlsplit(url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((url.hostname, url.port))
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
    stream = sock.makefile("rb")
    status = stream.readline().decode().strip()
    if " 101 " not in status:
        sys.exit(status)
    while stream.readline() != b"\r\n":
        pass
    return sock, stream


def send(sock, text):
    """A short text frame."""
    mask, data = os.urandom(4), text.encode()
    sock.sendall(bytes([0x81, 0x80 | len(data)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))


def receive(stream):
    """The next message; pings are passed over, since the engine's come every 25 s."""
    while True:
        head, length = stream.read(2)
        if length == 126:
            length, = struct.unpack(">H", stream.read(2))
        data = stream.read(length)
        if head & 15 == 8:
            sys.exit("closed with %d %s" % (struct.unpack(">H", data[:2])[0], data[2:].decode()))
        if head & 15 == 1:
            return json.loads(data)


def main():
    board = sys.argv[1] if len(sys.argv) > 1 else "crypto"
    sock, stream = connect(os.environ.get("CONNMIX_URL", "ws://127.0.0.1:6790/quotes"))
    send(sock, json.dumps({"op": "watch", "board": board}))
    while "ok" not in receive(stream):
        pass
    print(f"takes nothing for {PAUSE} s", flush=True)
    time.sleep(PAUSE)
    quotes, until = [], time.monotonic() + READ
    while time.monotonic() < until:
        quotes.append(receive(stream))
    seqs = [quote["seq"] for quote in quotes]
    gap, at = max((b - a - 1, i + 1) for i, (a, b) in enumerate(zip(seqs, seqs[1:])))
    print(f"{len(quotes)} quotes came" + (f"; {gap} were left out behind the first {at}" if gap else ", none was left out"))


if __name__ == "__main__":
    main()
