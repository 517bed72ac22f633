"""Against a real engine:  CONNMIX=target/release/connmix python3 -m unittest discover -s clients/python/tests -t clients/python"""

import asyncio
import logging
import threading
import unittest

from connmix import AsyncPublisher, CallError, Closed, Consumer, Published, Publisher, Refused
from tests.engine import Engine

BACKEND = {"user": "backend", "password": "change-me"}


class WithEngine(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        logging.getLogger("connmix").setLevel(logging.CRITICAL)
        self.engine = Engine()
        self.engine.start()
        await self.engine.ready()

    async def asyncTearDown(self):
        self.engine.end()


class Publishing(WithEngine):
    async def test_a_message_reaches_its_channel_as_it_is(self):
        publisher = AsyncPublisher(self.engine.url, **BACKEND)
        client = await self.engine.client("news")
        for data in ["Hello", '{"quoted":"\\"back\\\\slash\\"\ttab"}', "视频 😀 é", "x" * 70000, b"\0\xff", "y" * 300]:
            self.assertEqual(await publisher.publish("news", data), Published(1, 0))
            self.assertEqual(await client.next(), data)
        self.assertEqual(await publisher.publish("nobody", "Hello"), Published(0, 0))
        self.assertEqual(await publisher.publish("news", "not you", exclude=[client.id]), Published(0, 0))
        first = await publisher.publish("limited:1", "a", key="a", priority="normal")
        second = await publisher.publish("limited:1", "b")
        self.assertTrue(first.position and not first.left_out and second.left_out and not second.merged)
        alike = [await publisher.publish("merged:1", "a", key="a") for _ in range(3)]
        self.assertTrue(alike[-1].left_out and alike[-1].merged)
        self.assertTrue(await publisher.send(client.id, "only you"))
        self.assertEqual(await client.next(), "only you")
        self.assertFalse(await publisher.send("7", "nobody"))
        self.assertEqual(await publisher.call("mesh.count", {"c": "news"}), {"n": 1})
        await publisher.close()

    async def test_many_at_once_keep_their_order_over_one_connection(self):
        publisher = AsyncPublisher(self.engine.url, token="a-long-random-token")
        client = await self.engine.client("news")
        replies = await asyncio.gather(*(publisher.publish("news", str(n), timeout=60) for n in range(300)))
        self.assertEqual(replies, [Published(1, 0)] * 300)
        self.assertEqual([await client.next() for _ in range(300)], [str(n) for n in range(300)])
        await publisher.close()

    async def test_errors_say_what_is_wrong(self):
        publisher = AsyncPublisher(self.engine.url, **BACKEND)
        with self.assertRaisesRegex(CallError, "space") as e:
            await publisher.publish("two words", "Hello")
        self.assertEqual(e.exception.code, 101)
        with self.assertRaises(TypeError):
            await publisher.publish("news", {"a": 1})
        await publisher.close()
        for who, status in [({"user": "backend", "password": "wrong"}, 401), ({}, 401), ({"user": "reader", "password": "change-me"}, 403)]:
            with self.assertRaises(Refused) as e:
                await AsyncPublisher(self.engine.url, **who).publish("news", "Hello")
            self.assertEqual(e.exception.status, status)
        with self.assertRaisesRegex(ValueError, "ftp"):
            await AsyncPublisher("ftp://127.0.0.1").publish("news", "Hello")

    async def test_an_engine_that_stops_is_asked_again(self):
        async def refuse(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with self.assertRaisesRegex(TimeoutError, "503"):
                await AsyncPublisher(f"http://127.0.0.1:{port}").publish("news", "Hello", timeout=0.3)

    async def test_it_comes_back_when_the_engine_does(self):
        publisher = AsyncPublisher(self.engine.url, **BACKEND)
        await publisher.publish("news", "before")
        self.engine.kill()
        with self.assertRaisesRegex(TimeoutError, "no reply within 0.3 s"):
            await publisher.publish("news", "lost", timeout=0.3)
        waiting = asyncio.ensure_future(publisher.publish("news", "Hello", timeout=60))
        self.engine.start()
        await self.engine.ready()
        self.assertEqual(await waiting, Published(0, 0))
        client = await self.engine.client("news")
        self.assertEqual(await publisher.publish("news", "after"), Published(1, 0))
        self.assertEqual(await client.next(), "after")
        await publisher.close()
        with self.assertRaises(RuntimeError):
            await publisher.publish("news", "Hello")

    async def test_what_lost_its_reply_is_delivered_once(self):
        publisher = AsyncPublisher(self.engine.url, **BACKEND)
        client = await self.engine.client("news")
        await publisher.publish("news", "first")
        # Its call is carried out, but the reply never comes through.
        receiving = publisher._link.tasks[0]
        receiving.cancel()
        await asyncio.wait([receiving])
        lost = asyncio.ensure_future(publisher.publish("news", "Hello"))
        self.assertEqual([await client.next(), await client.next()], ["first", "Hello"])
        publisher._link._end(Closed(1006))
        self.assertEqual(await lost, Published(1, 0))
        await publisher.publish("news", "last")
        self.assertEqual(await client.next(), "last")
        await publisher.close()

    async def test_threads_share_a_publisher(self):
        client = await self.engine.client("news")

        def work():
            with Publisher(self.engine.url, **BACKEND) as publisher:
                threads = [threading.Thread(target=lambda: [publisher.publish("news", "Hello") for _ in range(25)]) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                self.assertEqual(publisher.call("mesh.count", {"c": "news"}), {"n": 1})
            publisher.close()

        await asyncio.to_thread(work)
        self.assertEqual({await client.next() for _ in range(100)}, {"Hello"})


class Consuming(WithEngine):
    def consume(self, handler, **more):
        consumer = Consumer(self.engine.url, ["jobs", "login"], handler, **{**BACKEND, **more})
        self.serving = asyncio.ensure_future(consumer.serve())
        return consumer

    async def stop(self, consumer):
        consumer.stop()
        await asyncio.wait_for(self.serving, 30)

    async def settled(self):
        """Whether another consumer gets nothing that was pushed before."""
        seen = asyncio.Queue()
        consumer = self.consume(seen.put)
        client = await self.engine.client()
        await client.ask({"push": "the last"})
        last = await asyncio.wait_for(seen.get(), 30)
        await self.stop(consumer)
        return last.data == "the last"

    async def test_it_logs_a_client_in(self):
        def login(message):  # a plain function, in a thread
            message.subscribe(f"user:{message.data}")
            message.set_context(uid=message.data)

        consumer = self.consume(login)
        client = await self.engine.client()
        await client.ask({"push": 1001, "topic": "login"})
        self.assertEqual(await client.ask({"wait": "uid"}), {"value": 1001})
        publisher = AsyncPublisher(self.engine.url, **BACKEND)
        self.assertEqual(await publisher.publish("user:1001", "welcome"), Published(1, 0))
        await publisher.close()
        await self.stop(consumer)
        self.assertTrue(await self.settled())

    async def test_what_it_fails_at_comes_again(self):
        tries = asyncio.Queue()

        async def handler(message):
            await tries.put(message.data)
            if tries.qsize() == 1:
                raise ValueError("as it was meant to")
            message.send("done")

        consumer = self.consume(handler)
        client = await self.engine.client()
        await client.ask({"push": {"job": 1}})
        self.assertEqual(await client.next(), "done")
        await self.stop(consumer)
        self.assertEqual([tries.get_nowait() for _ in range(tries.qsize())], [{"job": 1}] * 2)
        self.assertTrue(await self.settled())

    async def test_messages_come_in_their_order_and_several_at_once_if_wished(self):
        seen = []
        consumer = self.consume(lambda message: seen.append(message.data))
        client = await self.engine.client()
        for n in range(50):
            await client.ask({"push": n})
        await self.until(lambda: len(seen) == 50)
        self.assertEqual(seen, list(range(50)))
        await self.stop(consumer)

        together = asyncio.Event()
        count = 0

        async def handler(message):
            nonlocal count
            count += 1
            if count == 3:
                together.set()
            await together.wait()

        consumer = self.consume(handler, concurrency=3)
        for n in range(3):
            await client.ask({"push": n})
        await asyncio.wait_for(together.wait(), 30)
        await self.stop(consumer)
        self.assertTrue(await self.settled())

    async def test_it_comes_back_when_the_engine_does(self):
        seen = asyncio.Queue()
        consumer = self.consume(seen.put)
        client = await self.engine.client()
        await client.ask({"push": 1})
        self.assertEqual((await asyncio.wait_for(seen.get(), 30)).data, 1)
        self.engine.kill()
        self.engine.start()
        await self.engine.ready()
        client = await self.engine.client()
        await client.ask({"push": 2})
        self.assertEqual((await asyncio.wait_for(seen.get(), 60)).data, 2)
        await self.stop(consumer)

    async def until(self, condition):
        for _ in range(3000):
            if condition():
                return
            await asyncio.sleep(0.01)
        self.fail("it never came to that")


if __name__ == "__main__":
    unittest.main()
