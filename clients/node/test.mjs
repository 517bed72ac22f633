// Against a real engine:  CONNMIX=target/release/connmix node --test test.mjs   (Node 20: node --experimental-websocket --test test.mjs)

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { CallError, Consumer, Publisher } from "./index.js";

const files = fileURLToPath(new URL("../testing/", import.meta.url));
const backend = { user: "backend", password: "change-me" };

// Below those that the system gives to sockets by itself.
async function freePort() {
  for (;;) {
    const port = 10240 + Math.floor(Math.random() * 21000);
    const server = createServer().listen(port, "127.0.0.1");
    const is = await Promise.race([once(server, "listening").then(() => true), once(server, "error").then(() => false)]).catch(() => false);
    if (is) await new Promise((done) => server.close(done));
    if (is) return port;
  }
}

async function until(condition, what) {
  for (let n = 0; n < 3000; n++) {
    if (await condition()) return;
    await sleep(10);
  }
  assert.fail(`it never came to that: ${what}`);
}

let engine;

class Engine {
  static async make() {
    const engine = new Engine();
    engine.port = await freePort();
    engine.apiPort = await freePort();
    engine.url = `http://127.0.0.1:${engine.apiPort}`;
    return engine;
  }
  async start() {
    const env = { ...process.env, PORT: `${this.port}`, API_PORT: `${this.apiPort}` };
    this.process = spawn(process.env.CONNMIX ?? "connmix", ["single", "-f", `${files}connmix.yaml`], { env, cwd: files, stdio: "ignore" });
    this.ended = once(this.process, "exit");
    await until(async () => {
      assert.equal(this.process.exitCode, null, "the engine has ended");
      const socket = connect(this.apiPort, "127.0.0.1");
      const is = await once(socket, "connect").then(() => true, () => false);
      socket.destroy();
      return is;
    }, "the engine serves");
  }
  async kill() {
    this.process.kill("SIGKILL");
    await this.ended;
  }
  async client(subscribe) {
    const client = new Client(new WebSocket(`ws://127.0.0.1:${this.port}/ws`));
    await new Promise((open, fail) => Object.assign(client.ws, { onopen: open, onerror: fail }));
    if (subscribe) client.id = (await client.ask({ subscribe })).client;
    return client;
  }
}

// What a browser would be.
class Client {
  #got = [];
  constructor(ws) {
    this.ws = ws;
    ws.binaryType = "arraybuffer";
    ws.onmessage = (event) => this.#got.push(event.data);
  }
  async next() {
    await until(() => this.#got.length > 0, "a message");
    return this.#got.shift();
  }
  async ask(what) {
    this.ws.send(JSON.stringify(what));
    return JSON.parse(await this.next());
  }
}

beforeEach(async () => {
  engine = await Engine.make();
  await engine.start();
});
afterEach(() => engine.kill());

test("a message reaches its channel as it is", async () => {
  const publisher = new Publisher(engine.url, backend);
  const client = await engine.client("news");
  for (const data of ["Hello", '{"quoted":"\\"back\\\\slash\\"\ttab"}', "视频 😀 é", "x".repeat(70000)]) {
    assert.deepEqual(await publisher.publish("news", data), { reached: 1, failed: 0, unanswered: 0, leftOut: false, position: null, merged: false });
    assert.equal(await client.next(), data);
  }
  await publisher.publish("news", new Uint8Array([0, 255]));
  assert.deepEqual(new Uint8Array(await client.next()), new Uint8Array([0, 255]));
  assert.equal((await publisher.publish("news", "not you", { exclude: [client.id] })).reached, 0);
  const first = await publisher.publish("limited:1", "a", { key: "a", priority: "normal" });
  assert.ok(first.position && !first.leftOut);
  const second = await publisher.publish("limited:1", "b");
  assert.ok(second.leftOut && !second.merged);
  for (let alike = 0; !(await publisher.publish("merged:1", "a", { key: "a" })).merged; alike++) assert.ok(alike < 3);
  assert.equal(await publisher.send(client.id, "only you"), true);
  assert.equal(await client.next(), "only you");
  assert.equal(await publisher.send("7", "nobody"), false);
  assert.deepEqual(await publisher.call("mesh.count", { c: "news" }), { n: 1 });
  publisher.close();
});

test("many at once keep their order", async () => {
  const publisher = new Publisher(engine.url, { token: "a-long-random-token" });
  const client = await engine.client("news");
  const numbers = Array.from({ length: 300 }, (_, n) => `${n}`);
  await Promise.all(numbers.map((n) => publisher.publish("news", n, { timeout: 60000 })));
  for (const n of numbers) assert.equal(await client.next(), n);
  publisher.close();
});

test("errors say what is wrong", async () => {
  const publisher = new Publisher(engine.url, backend);
  await assert.rejects(publisher.publish("two words", "Hello"), (e) => e instanceof CallError && e.code === 101 && /space/.test(e.message));
  await assert.rejects(publisher.publish("news", { a: 1 }), TypeError);
  publisher.close();
  await assert.rejects(publisher.publish("news", "Hello"), /closed/);
  const stranger = new Publisher(engine.url, { ...backend, password: "wrong" });
  await assert.rejects(stranger.publish("news", "Hello", { timeout: 500 }), { name: "TimeoutError" });
  stranger.close();
  assert.throws(() => new Publisher("ftp://127.0.0.1"), TypeError);
});

test("a publisher comes back when the engine does", async () => {
  const publisher = new Publisher(engine.url, backend);
  await publisher.publish("news", "before");
  await engine.kill();
  await assert.rejects(publisher.publish("news", "lost", { timeout: 300 }), /no reply within 0.3 s/);
  const waiting = publisher.publish("news", "Hello", { timeout: 60000 });
  await engine.start();
  assert.equal((await waiting).reached, 0);
  const client = await engine.client("news");
  await publisher.publish("news", "after");
  assert.equal(await client.next(), "after");
  publisher.close();
});

test("what lost its reply is delivered once", async () => {
  // Between the two stands a relay that gives no reply through until it is told to, and breaks connections.
  let open = true;
  const pairs = new Set();
  const relay = createServer((near) => {
    const far = connect(engine.apiPort, "127.0.0.1");
    pairs.add(near);
    near.on("data", (data) => far.write(data)).on("error", () => {}).on("close", () => far.destroy());
    far.on("data", (data) => open && near.write(data)).on("error", () => {}).on("close", () => near.destroy());
  }).listen(await freePort(), "127.0.0.1");
  await once(relay, "listening");
  const publisher = new Publisher(`http://127.0.0.1:${relay.address().port}`, backend);
  const client = await engine.client("news");
  await publisher.publish("news", "first");
  open = false;
  const lost = publisher.publish("news", "Hello");
  assert.deepEqual([await client.next(), await client.next()], ["first", "Hello"]);
  open = true;
  for (const pair of pairs) pair.destroy();
  assert.equal((await lost).reached, 1);
  await publisher.publish("news", "last");
  assert.equal(await client.next(), "last");
  publisher.close();
  relay.close();
});

function consume(handler, options) {
  const consumer = new Consumer(engine.url, ["jobs", "login"], handler, { ...backend, log: () => {}, ...options });
  const running = consumer.run();
  return { stop: () => (consumer.stop(), running) };
}

// That another consumer gets nothing that was pushed before.
async function allIsSettled() {
  const seen = [];
  const consumer = consume((message) => void seen.push(message.data));
  await (await engine.client()).ask({ push: "the last" });
  await until(() => seen.length > 0, "a message");
  await consumer.stop();
  assert.deepEqual(seen, ["the last"]);
}

test("a consumer logs a client in", async () => {
  const consumer = consume((message) => {
    message.subscribe(`user:${message.data}`);
    message.setContext({ uid: message.data });
  });
  const client = await engine.client();
  await client.ask({ push: 1001, topic: "login" });
  assert.deepEqual(await client.ask({ wait: "uid" }), { value: 1001 });
  const publisher = new Publisher(engine.url, backend);
  assert.equal((await publisher.publish("user:1001", "welcome")).reached, 1);
  publisher.close();
  await consumer.stop();
  await allIsSettled();
});

test("what a consumer fails at comes again", async () => {
  const tries = [];
  const consumer = consume(async (message) => {
    tries.push(message.data);
    if (tries.length === 1) throw new Error("as it was meant to");
    message.send("done");
  });
  const client = await engine.client();
  await client.ask({ push: { job: 1 } });
  assert.equal(await client.next(), "done");
  await consumer.stop();
  assert.deepEqual(tries, [{ job: 1 }, { job: 1 }]);
  await allIsSettled();
});

test("messages come in their order, and several at once if wished", async () => {
  const seen = [];
  let consumer = consume((message) => void seen.push(message.data));
  const client = await engine.client();
  for (let n = 0; n < 50; n++) await client.ask({ push: n });
  await until(() => seen.length === 50, "all messages");
  assert.deepEqual(seen, Array.from({ length: 50 }, (_, n) => n));
  await consumer.stop();

  let count = 0;
  consumer = consume(() => (count++, until(() => count === 3, "three at once")), { concurrency: 3 });
  for (let n = 0; n < 3; n++) await client.ask({ push: n });
  await until(() => count === 3, "three at once");
  await consumer.stop();
  await allIsSettled();
});

test("a consumer comes back when the engine does", async () => {
  const seen = [];
  const consumer = consume((message) => void seen.push(message.data));
  await (await engine.client()).ask({ push: 1 });
  await until(() => seen.length === 1, "a message");
  await engine.kill();
  await engine.start();
  await (await engine.client()).ask({ push: 2 });
  await until(() => seen.length === 2, "another");
  assert.deepEqual(seen, [1, 2]);
  await consumer.stop();
});
