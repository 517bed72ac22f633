"""One connection to an engine's WebSocket API (/ws/v1): calls and their replies, events, and whether it still lives."""

import asyncio
import base64
import json
import random

from .websocket import Closed, Refused, WebSocket

# A connection is asked with a ping when it has been silent for so long, and given up when it says nothing for as long again.
SILENCE = 20.0
CONNECT_TIMEOUT = 5.0

__all__ = ["CallError", "Closed", "Link", "Refused", "Target", "pause"]


class CallError(Exception):
    """The engine's own no: `code` is that of the server API's tables, such as 101 for a wrong argument."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Target:
    """Which engine, and who calls."""

    def __init__(self, url, user=None, password=None, token=None, tls=None):
        self.url = url.rstrip("/") + "/ws/v1"
        self.tls = tls
        self.headers = []
        if token is not None:
            self.headers = [("Authorization", f"Bearer {token}")]
        elif user is not None:
            basic = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            self.headers = [("Authorization", f"Basic {basic}")]

    async def connect(self, on_event=None):
        connecting = WebSocket.connect(self.url, self.headers, self.tls)
        try:
            return Link(await asyncio.wait_for(connecting, CONNECT_TIMEOUT), on_event)
        except asyncio.TimeoutError:
            raise ConnectionError(f"no connection within {CONNECT_TIMEOUT:.0f} s") from None


class Link:
    """Calls are sent in the order in which they are made, and take effect in it. `on_event` gets what is no reply."""

    def __init__(self, ws, on_event=None):
        self.ws, self.on_event = ws, on_event
        self.calls, self.number = {}, 0
        self.heard = True
        self.error = None
        self.ended = asyncio.get_running_loop().create_future()
        self.tasks = [asyncio.ensure_future(self._receive()), asyncio.ensure_future(self._watch())]

    def call(self, method, params):
        """Sends a call; the future gets `r` of its reply, a `CallError`, or what ended the connection."""
        reply = asyncio.get_running_loop().create_future()
        # Nobody has to look at it.
        reply.add_done_callback(lambda reply: reply.cancelled() or reply.exception())
        if self.error is not None:
            reply.set_exception(self.error)
            return reply
        self.number += 1
        self.calls[self.number] = reply
        self.ws.send(json.dumps({"m": method, "p": params, "i": self.number}))
        return reply

    async def wait(self):
        """Returns what ended the connection, when it has ended."""
        return await asyncio.shield(self.ended)

    def close(self):
        """Ends it; calls without a reply fail."""
        self.ws.close()
        self._end(Closed(1000, "by this side"))

    async def _receive(self):
        try:
            while True:
                text = await self.ws.receive()
                self.heard = True
                if text == "pong":
                    continue
                message = json.loads(text)
                if "e" in message:
                    if self.on_event is not None:
                        self.on_event(message)
                    continue
                reply = self.calls.pop(message.get("i"), None)
                if reply is None or reply.done():
                    continue
                if message.get("E"):
                    reply.set_exception(CallError(message["E"]["c"], message["E"]["m"]))
                else:
                    reply.set_result(message.get("r"))
        except asyncio.CancelledError:
            raise
        except Exception as e:  # whatever it is, this connection is over
            self._end(e)
            self.ws.abort()

    async def _watch(self):
        while True:
            self.heard = False
            await asyncio.sleep(SILENCE)
            if not self.heard:
                self.ws.send("ping")
                await asyncio.sleep(SILENCE)
                if not self.heard:
                    self._end(Closed(1006, "silence"))
                    return self.ws.abort()

    def _end(self, error):
        if self.error is not None:
            return
        self.error = error
        for task in self.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for reply in self.calls.values():
            if not reply.done():
                reply.set_exception(error)
        self.calls.clear()
        self.ended.set_result(error)


def pause(failures, first=0.5, longest=30.0):
    """How long to wait after so many failures in a row: longer each time, and by chance, so that not all come back together."""
    return min(first * 2 ** min(failures - 1, 16), longest) * (0.5 + random.random() / 2)
