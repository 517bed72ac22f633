"""Publishing over one connection that comes back."""

import asyncio
import base64
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Optional

from .link import CallError, Link, Refused, Target, pause

__all__ = ["AsyncPublisher", "Published", "Publisher"]


@dataclass(frozen=True)
class Published:
    """Whom a message reached: connections that took it, that could not, and nodes of a cluster that did not answer in time.

    `left_out`: it was over the limit of its channel's rule. `position`: its place in a channel that keeps messages.
    `merged`: over the limit, it was added to others with the same key, and is not lost.
    """

    reached: int
    failed: int
    unanswered: int = 0
    left_out: bool = False
    position: Optional[str] = None
    merged: bool = False


class AsyncPublisher:
    """For asyncio. Connects at the first call, and again whenever it must. One for the whole program; any number of tasks may publish.

    `url` is an engine's API, such as http://127.0.0.1:6789. `in_flight` calls wait for their replies at the same time; further ones
    wait for their turn.
    """

    def __init__(self, url, user=None, password=None, token=None, tls=None, in_flight=256):
        self._target = Target(url, user, password, token, tls)
        self._places = asyncio.Semaphore(in_flight)
        self._connecting = asyncio.Lock()
        self._link = None
        self._failures = 0
        self._closed = False

    async def publish(self, channel, data, *, id=None, exclude=(), key=None, priority=None, timeout=10.0):
        """Publishes a str as text or bytes as binary to a channel, and returns whom it reached.

        A message whose reply is lost with the connection is published again, with the same `id`, by which the engine knows it: it is
        delivered once. `exclude` names clients that do not get it; `key` and `priority` ("high", "normal", "low") are for channels whose
        rule asks for them. Raises `CallError` if the engine refuses it, `Refused` if it refuses this caller, and `TimeoutError` when
        `timeout` seconds are over: then it may have been published or not.
        """
        params = {"c": channel, **_data(data), "id": id or str(uuid.uuid4())}
        for name, value in (("x", list(exclude)), ("k", key), ("pr", priority)):
            if value:
                params[name] = value
        r = await self._call("mesh.publish", params, timeout)
        return Published(r["s"], r["f"], r.get("u", 0), "l" in r, r.get("p"), "m" in r)

    async def send(self, client, data, *, timeout=10.0):
        """Sends to one client, and returns whether it is there. What breaks the connection is raised: it may have been sent."""
        try:
            await self._call("mesh.send", {"c": client, **_data(data)}, timeout, again=False)
            return True
        except CallError as e:
            if e.code == 401:
                return False
            raise

    async def call(self, method, params, *, timeout=10.0):
        """Any method of the WebSocket API; returns `r`. What breaks the connection is raised: it may have been carried out."""
        return await self._call(method, params, timeout, again=False)

    async def close(self):
        self._closed = True
        if self._link is not None:
            self._link.close()

    async def _call(self, method, params, timeout, again=True):
        deadline = time.monotonic() + timeout
        last = None
        try:
            async with _within(deadline, self._places):
                while True:
                    try:
                        link = await asyncio.wait_for(self._connected(), deadline - time.monotonic())
                    except asyncio.TimeoutError:  # an OSError, since Python 3.11
                        raise
                    except OSError as e:
                        if isinstance(e, Refused) and e.status < 500:
                            raise
                        last = e
                        continue  # the pause is in front of the next attempt
                    try:
                        return await asyncio.wait_for(link.call(method, params), deadline - time.monotonic())
                    except asyncio.TimeoutError:
                        raise
                    except OSError as e:
                        if not again:
                            raise
                        last = e
        except asyncio.TimeoutError:
            raise TimeoutError(f"{method}: no reply within {timeout} s" + (f"; {last}" if last else "")) from None

    async def _connected(self) -> Link:
        async with self._connecting:
            if self._closed:
                raise RuntimeError("the publisher is closed")
            if self._link is not None and self._link.error is None:
                return self._link
            if self._failures:
                await asyncio.sleep(pause(self._failures, 0.1, 5.0))
            self._failures += 1
            self._link = await self._target.connect()
            self._failures = 0
            return self._link


class Publisher:
    """The same for programs without asyncio; any number of threads may publish. Its connection has a thread of its own."""

    def __init__(self, url, user=None, password=None, token=None, tls=None):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="connmix", daemon=True)
        self._thread.start()
        self._publisher = self._run(self._make(url, user, password, token, tls))

    def publish(self, channel, data, **options):
        """As `AsyncPublisher.publish`."""
        return self._run(self._publisher.publish(channel, data, **options))

    def send(self, client, data, *, timeout=10.0):
        """As `AsyncPublisher.send`."""
        return self._run(self._publisher.send(client, data, timeout=timeout))

    def call(self, method, params, *, timeout=10.0):
        """As `AsyncPublisher.call`."""
        return self._run(self._publisher.call(method, params, timeout=timeout))

    def close(self):
        """Ends the connection. Not needed at the end of the program."""
        if self._loop.is_closed():
            return
        self._run(self._publisher.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @staticmethod
    async def _make(*about):
        return AsyncPublisher(*about)

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _within:
    """A place of a semaphore, if it is free before the deadline."""

    def __init__(self, deadline, places):
        self.deadline, self.places = deadline, places

    async def __aenter__(self):
        await asyncio.wait_for(self.places.acquire(), self.deadline - time.monotonic())

    async def __aexit__(self, *_):
        self.places.release()


def _data(data):
    if isinstance(data, str):
        return {"d": data}
    if isinstance(data, (bytes, bytearray)):
        return {"d": base64.b64encode(data).decode(), "t": "binary"}
    raise TypeError(f"data must be str or bytes, not {type(data).__name__}: encode it first, as with json.dumps")
