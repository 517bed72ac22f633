"""Consuming queues: each message is settled when it has been worked off, and comes again if it was not."""

import asyncio
import inspect
import logging
from dataclasses import dataclass, field
from typing import Any

from .link import CallError, Target, pause

__all__ = ["Consumer", "Message"]

log = logging.getLogger("connmix")


@dataclass(frozen=True)
class Message:
    """What a handler pushed: `data` any JSON value, `client` the id of the client whose handler it was."""

    topic: str
    data: Any
    client: str
    node: str
    _call: Any = field(repr=False)

    def call(self, function, *arguments, client=None):
        """Has the client's connection (or another's) do something, as `conn.call` of the API: see `subscribe` and the others.

        Nothing waits for the reply: calls are carried out in their order, and before the message is settled. One that fails, since the
        client has left perhaps, is logged at info.
        """
        self._call("conn.call", {"c": client or self.client, "f": function, "a": list(arguments)})

    def subscribe(self, *channels):
        """Puts the client into channels."""
        self.call("subscribe", *channels)

    def unsubscribe(self, *channels):
        """Takes the client out of channels."""
        self.call("unsubscribe", *channels)

    def set_context(self, **values):
        """Sets values of the client's context: a handler in `conn:wait_context_value` goes on."""
        self.call("set_context", values)

    def close(self, code=1000, reason=""):
        """Closes the client."""
        self.call("close", code, reason)

    def send(self, data):
        """Sends a text to the client."""
        self._call("mesh.send", {"c": self.client, "d": data})


class Consumer:
    """Takes the messages of `topics` from one engine, and gives each to `handler`.

    `handler(message)` is a function, which runs in a thread, or a coroutine function. When it returns, the message is settled. If it
    raises, that is logged, and the message comes again, to this consumer or another, after a pause that grows with each failure in a
    row. So may one whose connection breaks: what a message leads to must bear that it comes twice.

    `concurrency` messages are worked on at the same time; with 1 they are in their order.
    """

    def __init__(self, url, topics, handler, user=None, password=None, token=None, tls=None, concurrency=1):
        self._target = Target(url, user, password, token, tls)
        self._topics, self._handler, self._concurrency = list(topics), handler, concurrency
        self._failures = 0
        self._stop = None
        self._loop = None

    def run(self):
        """Consumes until `stop` is called, in this thread. A connection that breaks is made again; nothing is raised for it."""
        asyncio.run(self.serve())

    def stop(self):
        """Ends `run` and `serve`, from any thread: messages that are being worked on are finished and settled."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    async def serve(self):
        """The same as `run`, within asyncio."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            while not self._stop.is_set():
                try:
                    await self._connection(stopping)
                except Exception as e:  # of the network, or of a handler, which has been logged
                    log.warning("no connection: %s", e)
                if not self._stop.is_set():
                    self._failures += 1
                    await asyncio.wait([stopping], timeout=pause(self._failures))
        finally:
            stopping.cancel()

    async def _connection(self, stopping):
        messages = asyncio.Queue()  # the engine gives no more than 1,024 that are not settled
        link = await self._target.connect(on_event=lambda event: messages.put_nowait(event["p"]))
        workers = []
        try:
            popped = link.call("queue.pop", {"t": self._topics, "ack": True})
            ended = asyncio.ensure_future(link.wait())
            await asyncio.wait([popped, ended, stopping], return_when=asyncio.FIRST_COMPLETED)
            if popped.done():
                popped.result()
            workers = [asyncio.ensure_future(self._work(link, messages)) for _ in range(self._concurrency)]
            await asyncio.wait([ended, stopping, *workers], return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                for _ in workers:
                    messages.put_nowait(None)
                await asyncio.wait(workers)
                # Its reply comes behind those of all calls before, so that nothing is on its way when the connection ends.
                await asyncio.wait([link.call("queue.unpop", {})], timeout=5)
            for worker in workers:
                if worker.done():
                    worker.result()
            if ended.done() and not stopping.done():
                raise ended.result()
        finally:
            for worker in workers:
                worker.cancel()
            link.close()

    async def _work(self, link, messages):
        loop = asyncio.get_running_loop()

        def call(method, params):
            loop.call_soon_threadsafe(lambda: link.call(method, params).add_done_callback(_tell))

        while (message := await messages.get()) is not None and not self._stop.is_set():
            said = Message(message["t"], message["d"], message["c"], message["n"], call)
            try:
                if inspect.iscoroutinefunction(self._handler):
                    await self._handler(said)
                else:
                    await asyncio.to_thread(self._handler, said)
            except Exception:
                log.exception("a message of %s was not worked off, and comes again", said.topic)
                raise
            # Behind all calls of the handler, by the same way.
            call("queue.ack", [message["k"]])
            self._failures = 0


def _tell(reply):
    error = None if reply.cancelled() else reply.exception()
    if isinstance(error, CallError):
        log.info("a call failed: %s", error)
