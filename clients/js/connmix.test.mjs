// node connmix.test.mjs: the client with a clock, chance and a WebSocket of the test's own. With a real server in a real browser it
// is tried by tests/client_js.rs.

import assert from "node:assert/strict";
import { setMaxListeners } from "node:events";
import { readFileSync } from "node:fs";
import { Connmix } from "./connmix.js";

// The world that the client sees: timers in their order, and sockets that do what the test says.
let now, timers, sockets, sources, chance;
globalThis.setTimeout = (run, delay) => {
  assert.ok(delay >= 0 && delay < 2 ** 31, `a timer of ${delay}`);
  const timer = { run, at: now + delay };
  timers.add(timer);
  return timer;
};
globalThis.clearTimeout = (timer) => timers.delete(timer);
performance.now = () => now;
Math.random = () => chance;

class Socket {
  constructor(url, protocols) {
    if (url === "no address") throw new SyntaxError("that is no address");
    Object.assign(this, { url, protocols, readyState: 0, sent: [] });
    sockets.push(this);
  }
  send(data) {
    assert.equal(this.readyState, 1, "sent on a socket that is not open");
    this.sent.push(data);
  }
  close(code) {
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code < 5000)) throw new RangeError("wrong code");
    this.closed = code ?? "no code";
    this.readyState = 2;
  }
  opens() {
    this.readyState = 1;
    this.onopen?.({});
  }
  says(data) {
    this.onmessage?.({ data });
  }
  ends(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}
globalThis.WebSocket = Socket;

/** An event stream that does what the test says. */
class Source extends EventTarget {
  constructor(url, options) {
    super();
    assert.deepEqual(options, { withCredentials: true });
    Object.assign(this, { url: String(url), closed: false });
    sources.push(this);
  }
  close() {
    this.closed = true;
  }
  says(name, data, lastEventId = "") {
    this.dispatchEvent(Object.assign(new Event(name), { data, lastEventId }));
  }
  opens() {
    this.says("connected", '{"client":"7","token":"t"}');
  }
  fails() {
    this.onerror?.({});
  }
}

/** With event streams, and requests that are answered by these statuses. */
async function streaming(test) {
  const requests = [];
  globalThis.EventSource = Source;
  globalThis.fetch = async (url, request) => {
    requests.push({ url: String(url), ...request });
    await null;
    const status = requests.statuses?.shift() ?? 204;
    return { ok: status < 300, status };
  };
  try {
    await test(requests);
  } finally {
    delete globalThis.EventSource;
    delete globalThis.fetch;
  }
}

class Events extends EventTarget {
  listeners = 0;
  addEventListener(...about) {
    this.listeners++;
    super.addEventListener(...about);
  }
  removeEventListener(...about) {
    if (this.listeners) this.listeners--;
    super.removeEventListener(...about);
  }
}

let network;
for (const name of ["addEventListener", "removeEventListener"]) {
  globalThis[name] = (...about) => network[name](...about);
}

function world() {
  [now, timers, sockets, sources, chance] = [1000, new Set(), [], [], 0.5];
  network = new Events();
  globalThis.document = Object.assign(new Events(), { hidden: false });
  setMaxListeners(0, network, document);
}

/** Lets time pass: what is due runs, each at its moment. */
function pass(time) {
  const end = now + time;
  for (;;) {
    const due = [...timers].filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
    if (!due) break;
    timers.delete(due);
    now = due.at;
    due.run();
  }
  now = end;
}

const last = () => sockets.at(-1);
const settled = () => new Promise(setImmediate);

/** A client with notes of what its hooks were called with. */
function client(options = {}, url = "ws://there") {
  const notes = { open: [], messages: [], close: [] };
  const made = new Connmix(url, {
    onopen: (open) => notes.open.push(open),
    onmessage: (data) => notes.messages.push(data),
    onclose: (close) => notes.close.push(close),
    ...options,
  });
  return Object.assign(notes, { it: made });
}

const tests = {
  "a pause is a random part of a bound that doubles up to the longest"() {
    for (chance of [0, 0.5, 0.999]) {
      const { it, close } = client();
      for (let n = 0; n < 1100; n++) {
        last().ends();
        assert.equal(close[n].delay, chance * Math.min(30_000, 500 * 2 ** n));
        assert.equal(it.state, "waiting");
        const before = sockets.length;
        if (close[n].delay) pass(close[n].delay - 0.5);
        assert.equal(sockets.length, before, "not before its time");
        pass(0.75);
        assert.equal(sockets.length, before + 1);
      }
      it.close();
    }
  },

  "the bounds are the application's"() {
    const { close } = client({ firstDelay: 100, maxDelay: 250 });
    for (const delay of [50, 100, 125, 125]) {
      last().ends();
      assert.equal(close.at(-1).delay, delay);
      pass(delay);
    }
  },

  "only a connection that lasts ends the row of failures"() {
    const { close } = client();
    for (const [lasts, delay] of [[9_999, 250], [0, 500], [9_999, 1000], [10_000, 250], [0, 500]]) {
      last().opens();
      pass(lasts);
      last().ends(1011);
      assert.equal(close.at(-1).delay, delay);
      pass(delay);
    }
  },

  "at once is at once only the first time in a row"() {
    const { close } = client();
    for (const delay of [0, 500, 1000]) {
      last().opens();
      last().ends(1001, "read timeout");
      assert.equal(close.at(-1).delay, delay);
      pass(delay);
    }
  },

  "each close code leads to what docs/close-codes.md says"() {
    const page = readFileSync(new URL("../../docs/close-codes.md", import.meta.url), "utf8");
    const words = { "reconnect at once": 0, "reconnect later": 250, "stay away": null };
    let rows = 0;
    for (const line of page.split("\n")) {
      const cells = line.split("|").map((cell) => cell.trim());
      const codes = (cells[1] ?? "").split(", ").map(Number);
      if (!codes.every(Boolean)) continue;
      const reason = /^`([^`]*)`$/.exec(cells[2])?.[1] ?? "";
      const verdicts = cells.at(-2).split("; ");
      for (const [n, code] of codes.entries()) {
        const expected = words[verdicts[n]];
        assert.notEqual(expected, undefined, line);
        const { it, close } = client();
        last().opens();
        last().ends(code, reason);
        assert.deepEqual(close, [{ code, reason, delay: expected }]);
        assert.equal(it.state, expected === null ? "closed" : "waiting");
        rows++;
      }
    }
    assert.ok(rows >= 15, `${rows} rows`);
    for (const [code, delay] of [[4000, null], [4999, null], [3000, 250], [3199, 250], [3999, 250], [1012, 250]]) {
      const { close } = client();
      last().ends(code);
      assert.equal(close[0].delay, delay, `${code}`);
    }
  },

  "a server that stops says when to come back"() {
    const { close } = client({ maxDelay: 5000 });
    for (const [reason, delay] of [
      ["server shutdown, retry=1234", 1234],
      ["server shutdown, retry=10", 500], // the second in a row: not before its own pause
      ["server shutdown, retry=2000", 2000],
      ["server shutdown, retry=999999", 5000],
      ["server shutdown, retry=-5", 2500],
    ]) {
      last().ends(1012, reason);
      assert.equal(close.at(-1).delay, delay);
      pass(delay);
    }
    const decided = client({ retry: () => "never" });
    last().ends(1012, "server shutdown, retry=7");
    assert.equal(decided.close[0].delay, null);
    const other = client();
    last().ends(1011, "another, retry=7");
    assert.equal(other.close[0].delay, 250);
  },

  "the application decides for its own codes"() {
    const retry = ({ code, reason }) => ({ 4001: "later", 4002: "now", 1006: "never" })[code] ?? (reason || undefined);
    for (const [code, reason, delay] of [[4001, "", 250], [4002, "", 0], [1006, "", null], [4003, "", null], [1000, "later", 250]]) {
      const { close } = client({ retry });
      last().ends(code, reason);
      assert.deepEqual(close, [{ code, reason, delay }]);
    }
  },

  "after each connect the hook's messages go first, then those that waited, in their order"() {
    let ours;
    const { it, open } = client({
      onopen: (how) => {
        open.push(how);
        ours?.send("subscribe");
      },
    });
    ours = it;
    assert.ok(it.send("a") && it.send("b"));
    last().opens();
    assert.equal(last().binaryType, "arraybuffer");
    assert.deepEqual(last().sent, ["subscribe", "a", "b"]);
    it.send("c");
    assert.deepEqual(last().sent, ["subscribe", "a", "b", "c"]);
    last().ends();
    it.send("d");
    pass(250);
    it.send("e");
    last().opens();
    assert.deepEqual(last().sent, ["subscribe", "d", "e"]);
    assert.deepEqual(open, [{ again: false }, { again: true }]);
  },

  "what waits is bounded, and none is lost without a word"() {
    const { it } = client({ maxQueue: 2 });
    assert.deepEqual([1, 2, 3].map((n) => it.send(`${n}`)), [true, true, false]);
    last().opens();
    assert.deepEqual(last().sent, ["1", "2"]);
    // The browser knows that it is closing, and has not told yet.
    last().readyState = 2;
    assert.deepEqual([4, 5, 6].map((n) => it.send(`${n}`)), [true, true, false]);
    last().ends();
    pass(250);
    last().opens();
    assert.deepEqual(last().sent, ["4", "5"]);
    last().ends(4001);
    assert.equal(it.send("never"), false);
    assert.equal(client({ maxQueue: 0 }).it.send("none"), false);
    assert.equal(client().it.send("by default"), true);
  },

  "close is for good: no timer, no listener, no hook"() {
    for (const at of ["connecting", "open", "waiting"]) {
      world();
      const { it, open, messages, close } = client({ ping: "?" });
      if (at !== "connecting") last().opens();
      if (at === "waiting") last().ends();
      assert.equal(it.state, at);
      const counts = [open.length, close.length];
      assert.equal(network.listeners + document.listeners, 3);
      it.close(4000, "bye");
      if (at !== "waiting") assert.equal(last().closed, 4000);
      last().opens();
      last().says("late");
      last().ends();
      pass(1e6);
      network.dispatchEvent(new Event("online"));
      assert.equal(it.state, "closed");
      assert.deepEqual([[open.length, close.length], messages, sockets.length], [counts, [], 1]);
      assert.deepEqual([timers.size, network.listeners + document.listeners], [0, 0]);
    }
  },

  "a wrong code of close throws and ends nothing"() {
    const { it } = client();
    last().opens();
    assert.throws(() => it.close(1001), RangeError);
    assert.equal(it.state, "open");
    last().says("still heard");
    assert.ok(it.send("x"));
  },

  "open connects at once, also after the end, and only if there is need"() {
    const { it, close } = client();
    it.open();
    last().opens();
    it.open();
    assert.equal(sockets.length, 1);
    last().ends();
    it.open();
    assert.equal(sockets.length, 2);
    pass(250);
    assert.equal(sockets.length, 2, "the pause is over, and forgotten");
    last().ends(4001);
    assert.equal(network.listeners, 0);
    it.open();
    assert.deepEqual([sockets.length, network.listeners, it.state], [3, 2, "connecting"]);
    // As if it were new: failures are forgotten, and what waited.
    it.send("dropped");
    last().ends();
    last().ends();
    it.close();
    it.open();
    last().opens();
    assert.deepEqual(last().sent, []);
    last().ends();
    assert.equal(close.at(-1).delay, 250);
  },

  "hooks may close and open"() {
    const opened = client({ onopen: () => opened.it.close() });
    opened.it.send("never sent");
    last().opens();
    assert.deepEqual([opened.it.state, last().sent, last().closed], ["closed", [], 1000]);
    const ended = client({ onclose: () => ended.it.open() });
    last().ends(4001);
    assert.equal(ended.it.state, "connecting");
    const decided = client({ retry: () => decided.it.close() });
    last().ends();
    assert.deepEqual([decided.it.state, decided.close, timers.size], ["closed", [], 1]);
    ended.it.close();
    assert.equal(timers.size, 0);
  },

  async "a hook that throws is reported, and changes nothing"() {
    const thrown = [];
    const note = (error) => thrown.push(error.message);
    process.on("uncaughtException", note);
    const fail = (what) => () => {
      throw new Error(what);
    };
    const { it } = client({ onopen: fail("a"), onmessage: fail("b"), onclose: fail("c"), retry: fail("d") });
    it.send("waits");
    last().opens();
    last().says("x");
    last().ends(1011);
    await settled();
    process.off("uncaughtException", note);
    assert.deepEqual(thrown.sort(), ["a", "b", "c", "d"]);
    assert.deepEqual([sockets[0].sent, it.state], [["waits"], "waiting"]);
    pass(250);
    assert.equal(sockets.length, 2);
  },

  "an attempt that hangs is given up"() {
    const { it, close } = client();
    pass(14_999);
    assert.equal(it.state, "connecting");
    pass(1);
    assert.deepEqual(close, [{ code: 1006, reason: "no connection in time", delay: 250 }]);
    assert.ok(sockets[0].closed);
    sockets[0].opens(); // too late
    assert.equal(it.state, "waiting");
  },

  async "the address may be asked for before each attempt"() {
    const answers = [() => "ws://1", () => Promise.resolve("ws://2"), () => Promise.reject(new Error("no token"))];
    answers.push(() => "no address", () => new Promise(() => {}), () => "ws://6");
    const { it, close } = client({ protocols: ["one"] }, () => answers.shift()());
    await settled();
    assert.deepEqual([last().url, last().protocols], ["ws://1", ["one"]]);
    last().opens();
    last().ends();
    pass(250);
    await settled();
    assert.equal(last().url, "ws://2");
    last().ends();
    pass(500);
    await settled();
    pass(1000);
    await settled();
    assert.deepEqual(close.slice(2).map((end) => [end.code, end.reason]), [
      [1006, "Error: no token"],
      [1006, "SyntaxError: that is no address"],
    ]);
    pass(2000);
    await settled();
    pass(15_000);
    assert.equal(close[4].reason, "no connection in time");
    pass(4000);
    await settled();
    assert.equal(last().url, "ws://6");
    assert.equal(sockets.length, 3);
    it.close();
  },

  async "an address that comes after the end is not used"() {
    for (const how of ["resolve", "reject"]) {
      let tell;
      const { it, close } = client({}, () => new Promise((resolve, reject) => (tell = { resolve, reject })));
      it.close();
      tell[how]("ws://late");
      await settled();
      assert.deepEqual([sockets.length, it.state, close], [0, "closed", []]);
    }
  },

  "pings go at their interval, and silence after one ends the connection"() {
    const { it, close, messages } = client({ ping: "?" });
    last().opens();
    for (let n = 1; n < 5; n++) {
      pass(25_000);
      assert.equal(last().sent.length, n);
      last().says("!");
      pass(10_000);
    }
    assert.deepEqual(messages, ["!", "!", "!", "!"]);
    pass(25_000 + 9_999);
    assert.equal(it.state, "open");
    pass(1);
    assert.deepEqual(close, [{ code: 1006, reason: "no answer to the ping", delay: 250 }]);
    assert.equal(sockets[0].closed, "no code");
    sockets[0].says("too late");
    sockets[0].ends();
    assert.deepEqual([messages.length, close.length], [4, 1]);
    pass(250);
    last().opens();
    assert.equal(it.state, "open");
  },

  "without a ping there is no timer while all is well"() {
    client();
    last().opens();
    assert.equal(timers.size, 0);
    network.dispatchEvent(new Event("online"));
    assert.deepEqual([timers.size, last().sent], [0, []]);
  },

  "a page that is shown or finds the network connects at once, or pings"() {
    const { it } = client({ ping: "?" });
    const happens = (place, name) => place.dispatchEvent(new Event(name));
    const waits = () => {
      last().ends();
      assert.equal(it.state, "waiting");
    };
    waits();
    document.hidden = true;
    happens(document, "visibilitychange");
    happens(network, "offline");
    assert.equal(it.state, "waiting");
    document.hidden = false;
    happens(document, "visibilitychange");
    assert.equal(sockets.length, 2);
    waits();
    happens(network, "online");
    assert.equal(sockets.length, 3);
    happens(network, "online"); // while connecting
    assert.equal(sockets.length, 3);
    last().opens();
    for (const [place, name] of [[network, "online"], [network, "offline"], [document, "visibilitychange"]]) {
      const before = last().sent.length;
      happens(place, name);
      happens(place, name);
      assert.equal(last().sent.length, before + 1, "one at a time");
      last().says("!");
      pass(10_000);
    }
    happens(network, "offline");
    pass(10_000);
    assert.equal(it.state, "waiting");
  },

  async "WebSocket and event stream take turns until one succeeds"() {
    await streaming(async () => {
      const { it, open, close } = client({}, "wss://there/path?a=b");
      const attempts = [];
      for (let n = 0; n < 6; n++) {
        await settled();
        const [socket, source] = [sockets.splice(0)[0], sources.splice(0)[0]];
        attempts.push(socket ? "socket" : source.url);
        if (socket) socket.ends();
        else source.fails();
        pass(close.at(-1).delay);
      }
      const stream = "https://there/path?a=b";
      assert.deepEqual(attempts, ["socket", "socket", stream, "socket", stream, "socket"]);
      await settled();
      sources[0].opens();
      assert.deepEqual([it.state, open], ["open", [{ again: false }]]);
      // One that was there comes back as one, with its last position.
      sources[0].says("message", "one", "e:1");
      sources[0].says("message", "two");
      sources[0].fails();
      pass(close.at(-1).delay);
      await settled();
      assert.deepEqual([sockets.length, sources[1].url], [0, `${stream}&lastEventId=e%3A1`]);
      it.close();
      assert.ok(sources[1].closed);
    });
  },

  async "who has had a WebSocket has no event stream"() {
    await streaming(async () => {
      const { it, close } = client();
      await settled();
      last().ends();
      pass(close[0].delay);
      await settled();
      last().opens();
      for (let n = 0; n < 4; n++) {
        last().ends();
        pass(close.at(-1).delay);
        await settled();
      }
      assert.deepEqual([sockets.length, sources.length], [6, 0]);
      it.close();
      const none = client({ eventStream: false });
      for (let n = 0; n < 4; n++) {
        await settled();
        last().ends();
        pass(none.close.at(-1).delay);
      }
      assert.equal(sources.length, 0);
      none.it.close();
    });
  },

  async "on an event stream messages go one after the other, again if they have to, and until the end"() {
    await streaming(async (requests) => {
      const { WebSocket } = globalThis;
      delete globalThis.WebSocket;
      const { it, messages, close } = client();
      await settled();
      const bytes = new Uint8Array([0, 255]);
      assert.ok(it.send("one"));
      sources[0].opens();
      sources[0].says("binary", "AP8=");
      assert.deepEqual([...new Uint8Array(messages[0])], [0, 255]);
      requests.statuses = [204, 429, 204];
      assert.ok(it.send(bytes) && it.send("three"));
      await settled();
      assert.deepEqual(requests.map(({ body }) => body), ["one", bytes]);
      pass(1000);
      await settled();
      assert.deepEqual(requests.map(({ body }) => body), ["one", bytes, bytes, "three"]);
      const { method, credentials, headers } = requests[2];
      assert.deepEqual([method, credentials], ["POST", "include"]);
      const type = "application/octet-stream";
      assert.deepEqual(headers, { "Connmix-Client": "7", "Connmix-Token": "t", "Content-Type": type });
      // What the server says of the end; what a message led to.
      sources[0].says("close", '{"code":1011,"reason":"handler error"}');
      assert.deepEqual([close[0].code, close[0].reason, sources[0].closed], [1011, "handler error", true]);
      pass(close.at(-1).delay);
      for (const [status, code] of [[404, 1006], [413, 1009]]) {
        await settled();
        sources.at(-1).opens();
        requests.statuses = [status];
        it.send("x");
        await settled();
        assert.equal(close.at(-1).code, code);
        pass(close.at(-1).delay);
      }
      assert.equal(it.state, "closed");
      // What was sent before it closed still goes.
      it.open();
      await settled();
      sources.at(-1).opens();
      it.send("bye");
      it.close();
      assert.ok(!sources.at(-1).closed);
      await settled();
      assert.ok(sources.at(-1).closed && requests.at(-1).body === "bye");
      globalThis.WebSocket = WebSocket;
    });
  },

  "it works where there is no page"() {
    const page = {};
    for (const name of ["document", "addEventListener", "removeEventListener"]) {
      page[name] = globalThis[name];
      delete globalThis[name];
    }
    const { it } = client();
    last().opens();
    assert.ok(it.send("x"));
    it.close();
    Object.assign(globalThis, page);
  },

  "numbers that make no sense are refused"() {
    for (const name of ["firstDelay", "maxDelay", "connectTimeout", "pingInterval", "pingTimeout", "maxQueue"]) {
      for (const value of [NaN, -1, "30", Infinity, null, 2 ** 31, ...(name === "maxQueue" ? [] : [0])]) {
        assert.throws(() => client({ [name]: value }), { name: "RangeError", message: new RegExp(name) });
      }
      client({ [name]: undefined });
    }
    assert.equal(sockets.length, 6);
  },
};

for (const [name, test] of Object.entries(tests)) {
  world();
  await test();
  console.log(`ok: ${name}`);
}
