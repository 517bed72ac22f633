"""Logs clients in: takes messages from the queue "login", and tells the engine who each client is.

It needs the package websockets (pip install websockets; 13 or later).
"""

import asyncio, base64, json, os, random
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

API = os.environ.get("CONNMIX_API", "http://127.0.0.1:6789")
USER = os.environ.get("CONNMIX_USER", "backend:change-me")
USERS = {"ann-token": 1001, "bob-token": 1002}  # a database, in earnest


async def ask(ws, method, params):
    await ws.send(json.dumps({"m": method, "p": params, "i": method}))


async def login(ws, message):
    client, uid = message["c"], USERS.get(message["d"]["token"])
    if uid is None:
        await ask(ws, "conn.call", {"c": client, "f": "close", "a": [4001, "please log in"]})
    else:
        # In this order: when the client hears of its login, it is in its channel.
        await ask(ws, "conn.call", {"c": client, "f": "subscribe", "a": [f"user:{uid}"]})
        await ask(ws, "conn.call", {"c": client, "f": "set_context_value", "a": ["uid", uid]})
    print(f"client {client}: user {uid or 'unknown'}", flush=True)
    # Last: whatever breaks before leaves the message to be delivered again.
    await ask(ws, "queue.ack", [message["k"]])


async def consume(ws):
    await ask(ws, "queue.pop", {"t": ["login"], "ack": True})
    async for text in ws:
        message = json.loads(text)
        if message.get("e") == "queue.pop":
            await login(ws, message["p"])
        elif message.get("E"):
            print(f"{message['i']}: {message['E']['c']}, {message['E']['m']}", flush=True)
        elif message.get("i") == "queue.pop":
            print("consuming", flush=True)


async def main():
    url = API.replace("http", "ws", 1) + "/ws/v1"
    headers = {"Authorization": "Basic " + base64.b64encode(USER.encode()).decode()}
    wait = 0.5
    while True:
        try:
            # It pings by itself, and so finds a connection that is dead.
            async with connect(url, additional_headers=headers) as ws:
                wait = 0.5
                await consume(ws)
            print(f"no connection: {ws.close_code} {ws.close_reason}", flush=True)
        except (OSError, WebSocketException) as e:
            print(f"no connection: {e}", flush=True)
        # Later each time, and not all consumers at once.
        await asyncio.sleep(wait * random.uniform(0.5, 1))
        wait = min(wait * 2, 30)


asyncio.run(main())
