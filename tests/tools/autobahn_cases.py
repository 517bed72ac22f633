"""Compressed messages as Autobahn's test suite sends them in its cases 12 and 13, by Autobahn's own client, which checks what comes back.

    autobahn_cases.py WS_URL MESSAGES [CASE...]

Each case sends MESSAGES (the suite: 1000) messages of one size, one after the other, in fragments of one size if at all, cut from one text or
binary data; those of 13 make other offers. A case without compression fails. Cases run in processes of their own, as many as there are cores.
"""

import asyncio
import hashlib
import json
import multiprocessing
import os
import random
import sys

from autobahn.asyncio.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateResponse, PerMessageDeflateResponseAccept

# Size, and size of fragments (0: one frame).
SIZES = [(size, 0) for size in (16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072)]
SIZES += [(size, 256) for size in (8192, 16384, 32768, 65536, 131072)]
SIZES += [(131072, size) for size in (1024, 4096, 32768)]
# Whether the server is asked to keep no context, and for which window (0: not asked), for each offer.
OFFERS = [[(False, 0)], [(True, 0)], [(False, 9)], [(False, 15)], [(True, 9)], [(True, 15)], [(True, 9), (True, 0), (False, 0)]]


def data():
    """By name: what messages are cut from, and whether it is binary."""
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyzäöüß", k=chance.randint(2, 10))) for _ in range(4000)]
    some = lambda count: " ".join(chance.choices(words, weights=range(1, 4001), k=count))
    rows = [{"id": n, "name": some(2), "tags": chance.choices(words, k=3), "score": chance.random()} for n in range(2000)]
    picture = bytearray()
    for y in range(512):
        picture += bytes((x * y // 200 + chance.randint(0, 12)) % 256 for x in range(512))
    page = "".join(f'<div class="row"><a href="/{n}">{some(6)}</a><p>{some(12)}</p></div>\n' for n in range(1500))
    return {
        "1": (json.dumps(rows, ensure_ascii=False), False),
        "2": (bytes(picture), True),
        "3": (some(35_000).encode(), True),
        "4": (page, False),
        "5": (chance.randbytes(700_000) + picture, True),
    }


def cases():
    for name in "12345":
        for n, (size, fragment) in enumerate(SIZES, 1):
            yield f"12.{name}.{n}", name, size, fragment, OFFERS[0]
    for kind, offers in enumerate(OFFERS, 1):
        for n, (size, fragment) in enumerate(SIZES, 1):
            yield f"13.{kind}.{n}", "1", size, fragment, offers


async def run(url, messages, case):
    _, name, size, fragment, offers = case
    whole, binary = DATA[name]
    done = asyncio.get_running_loop().create_future()

    def finish(result):
        if not done.done():
            done.set_result(result)

    class Client(WebSocketClientProtocol):
        def onOpen(self):
            self.autoFragmentSize = fragment
            self.at, self.sent = 0, 0
            if self._perMessageCompress is None:
                return finish("no compression was agreed")
            self.send_one()

        def send_one(self):
            # Round and round through the data.
            end = (self.at + size) % len(whole)
            part = whole[self.at:end] if end > self.at else whole[self.at:] + whole[:end]
            self.at = end
            self.expected = part if binary else part.encode()
            self.sent += 1
            self.sendMessage(self.expected, binary)

        def onMessage(self, payload, is_binary):
            if is_binary != binary or payload != self.expected:
                return finish(f"message {self.sent} came back as another one of {len(payload)} bytes")
            if self.sent < messages:
                return self.send_one()
            self.sendClose(1000)

        def onClose(self, was_clean, code, reason):
            finish(None if was_clean and code == 1000 and self.sent == messages else f"closed with {code} {reason}, clean: {was_clean}")

    factory = WebSocketClientFactory(url)
    factory.protocol = Client
    accept = lambda response: PerMessageDeflateResponseAccept(response) if isinstance(response, PerMessageDeflateResponse) else None
    factory.setProtocolOptions(
        perMessageCompressionOffers=[PerMessageDeflateOffer(True, True, alone, window) for alone, window in offers],
        perMessageCompressionAccept=accept, openHandshakeTimeout=60, closeHandshakeTimeout=60)
    loop = asyncio.get_running_loop()
    await loop.create_connection(factory, factory.host, factory.port)
    return await asyncio.wait_for(done, 480)


def one(case):
    try:
        return case[0], asyncio.run(run(sys.argv[1], int(sys.argv[2]), case))
    except Exception as e:
        return case[0], f"{type(e).__name__}: {e}"


DATA = data()


def main():
    wanted = sys.argv[3:]
    chosen = [case for case in cases() if not wanted or case[0] in wanted]
    failed = 0
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        for name, problem in pool.imap(one, chosen):
            if problem is not None:
                failed += 1
                print(f"{name}: {problem}")
    print(f"{len(chosen) - failed} of {len(chosen)} cases passed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
