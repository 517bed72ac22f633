"""A real engine for the tests, the program that CONNMIX names, and clients of it."""

import asyncio
import json
import os
import random
import socket
import subprocess
import tempfile
from pathlib import Path

from connmix.websocket import WebSocket

CONNMIX = os.environ.get("CONNMIX", "connmix")
FILES = Path(__file__).resolve().parents[2] / "testing"


def free_port():
    """Below those that the system gives to sockets by itself."""
    while True:
        port = random.randrange(10240, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Engine:
    """Runs from `start` to `kill`, and may be started again at the same ports."""

    def __init__(self):
        self.port, self.api_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.api_port}"
        self.process, self.clients = None, []
        self.log = tempfile.TemporaryFile()

    def start(self):
        env = {**os.environ, "PORT": str(self.port), "API_PORT": str(self.api_port)}
        self.process = subprocess.Popen(
            [CONNMIX, "single", "-f", FILES / "connmix.yaml"], env=env, cwd=FILES, stdout=self.log, stderr=self.log)

    async def ready(self):
        for _ in range(3000):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.api_port)
                writer.close()
                return self
            except OSError:
                if self.process.poll() is not None:
                    self.log.seek(0)
                    raise AssertionError(f"{CONNMIX} has ended: {self.log.read().decode()}") from None
                await asyncio.sleep(0.01)
        raise AssertionError("the engine does not start")

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def end(self):
        self.kill()
        self.log.close()
        for client in self.clients:
            client.ws.abort()

    async def client(self, subscribe=None):
        client = Client(await WebSocket.connect(f"ws://127.0.0.1:{self.port}/ws"))
        self.clients.append(client)
        if subscribe is not None:
            client.id = (await client.ask({"subscribe": subscribe}))["client"]
        return client


class Client:
    """What a browser would be."""

    def __init__(self, ws):
        self.ws, self.id = ws, None

    def say(self, what):
        self.ws.send(json.dumps(what))

    async def next(self):
        return await asyncio.wait_for(self.ws.receive(), 30)

    async def ask(self, what):
        self.say(what)
        return json.loads(await self.next())
