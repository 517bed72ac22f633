"""Back ends of connmix: publishing, and consuming queues, over its WebSocket API. The standard library alone.

- `Publisher` for programs with threads, `AsyncPublisher` for asyncio: each keeps one connection, and publishes once what it was told to
  publish, though the connection breaks meanwhile.
- `Consumer` takes messages of queues, and settles each when it has been worked off.
"""

from .consumer import Consumer, Message
from .link import CallError, Closed, Refused
from .publisher import AsyncPublisher, Published, Publisher

__all__ = ["AsyncPublisher", "CallError", "Closed", "Consumer", "Message", "Published", "Publisher", "Refused"]
