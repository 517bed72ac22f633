// One connection to an engine's WebSocket API (/ws/v1): calls and their replies, events, and whether it still lives.

// A connection is asked with a ping when it has been silent for so long, and given up when it says nothing for as long again.
const SILENCE = 20000;
const CONNECT_TIMEOUT = 5000;

export class CallError extends Error {
  constructor(code, message) {
    super(`${code}: ${message}`);
    this.name = "CallError";
    this.code = code;
  }
}

export class Closed extends Error {
  constructor(code, reason) {
    super(`closed with ${code} ${reason}`.trimEnd());
    this.name = "Closed";
    this.code = code;
  }
}

export function headers({ user, password = "", token }) {
  if (token !== undefined) return { Authorization: `Bearer ${token}` };
  if (user === undefined) return {};
  return { Authorization: `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}` };
}

// How long to wait after so many failures in a row: longer each time, and by chance, so that not all come back together.
export function pause(failures, first, longest) {
  return Math.min(first * 2 ** (failures - 1), longest) * (0.5 + Math.random() / 2);
}

// Calls take effect in the order in which they are made. `ended` is fulfilled with what ended the connection.
export class Link {
  #ws;
  #calls = new Map();
  #number = 0;
  #heard = true;
  #pulse;
  #over;
  error = null;

  // Resolves to a connection that is open.
  static connect(url, target, onEvent) {
    return new Promise((open, fail) => new Link(url, target, onEvent, open, fail));
  }

  constructor(url, target, onEvent, open, fail) {
    this.ended = new Promise((over) => (this.#over = over));
    this.ended.then(fail); // nothing, once it was open
    const address = url.replace(/\/+$/, "").replace(/^http/, "ws") + "/ws/v1";
    const ws = (this.#ws = new WebSocket(address, { headers: headers(target) }));
    const patience = setTimeout(() => this.#end(new Closed(1006, "no connection in time")), CONNECT_TIMEOUT);
    this.ended.then(() => clearTimeout(patience));
    ws.onopen = () => {
      clearTimeout(patience);
      this.#pulse = setInterval(() => this.#beat(), SILENCE);
      open(this);
    };
    ws.onmessage = (event) => this.#message(event.data, onEvent);
    // Some versions of Node tell of a failed attempt with an error alone, and no close.
    ws.onerror = (event) => this.#end(new Closed(1006, event.message ?? "the connection failed"));
    ws.onclose = (event) => this.#end(new Closed(event.code, event.reason));
  }

  call(method, params) {
    if (this.error) return Promise.reject(this.error);
    const i = ++this.#number;
    const reply = new Promise((done, fail) => this.#calls.set(i, { done, fail }));
    reply.catch(() => {}); // nobody has to look at it
    this.#ws.send(JSON.stringify({ m: method, p: params, i }));
    return reply;
  }

  close() {
    this.#end(new Closed(1000, "by this side"));
  }

  #message(text, onEvent) {
    this.#heard = true;
    if (text === "pong") return;
    const message = JSON.parse(text);
    if (message.e !== undefined) return onEvent?.(message);
    const call = this.#calls.get(message.i);
    this.#calls.delete(message.i);
    if (message.E) call?.fail(new CallError(message.E.c, message.E.m));
    else call?.done(message.r);
  }

  #beat() {
    if (this.#heard === null) return this.#end(new Closed(1006, "silence"));
    if (!this.#heard) this.#ws.send("ping");
    this.#heard = this.#heard ? false : null;
  }

  #end(error) {
    if (this.error) return;
    this.error = error;
    clearInterval(this.#pulse);
    const ws = this.#ws;
    ws.onopen = ws.onmessage = ws.onclose = null;
    ws.onerror = () => {};
    ws.close();
    for (const { fail } of this.#calls.values()) fail(error);
    this.#calls.clear();
    this.#over(error);
  }
}
