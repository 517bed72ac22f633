// A WebSocket that comes back: connmix.d.ts says what each option, method and hook means.

/** Milliseconds a connection has to last to count as good: who is let in and soon thrown out again is to slow down, too. */
const STABLE = 10_000;

/** What a client does after a close code, as connmix's docs/close-codes.md says. */
function verdict(code, reason) {
  if (code === 1001) return reason === "read timeout" ? "now" : "later";
  if ([1000, 1002, 1005, 1007, 1008, 1009].includes(code) || code >= 4000) return "never";
  return "later"; // 1006 among them, which browsers make of every handshake that fails, whatever its status
}

/** Calls a hook of the application; what that throws is reported like any uncaught error, and changes nothing here. */
function call(hook, ...values) {
  try {
    return hook?.(...values);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** An event stream, to be used as a WebSocket: messages come as server-sent events and go by POST, one after the other. */
class Stream {
  readyState = 0;
  #url;
  #source;
  #headers;
  #queue = [];
  #posting = false;

  constructor(address, last) {
    const url = (this.#url = new URL(address, globalThis.location?.href));
    url.protocol = url.protocol.replace("ws", "http");
    if (last) url.searchParams.set("lastEventId", last);
    const source = (this.#source = new EventSource(url, { withCredentials: true }));
    const on = (name, run) => source.addEventListener(name, (event) => run(event.data, event));
    on("connected", (data) => {
      const { client, token } = JSON.parse(data);
      this.#headers = { "Connmix-Client": client, "Connmix-Token": token };
      this.readyState = 1;
      this.onopen?.();
    });
    on("message", (data, event) => this.onmessage?.(event));
    on("binary", (text, { lastEventId }) => {
      const data = Uint8Array.from(atob(text), (byte) => byte.charCodeAt()).buffer;
      this.onmessage?.({ data, lastEventId });
    });
    on("close", (data) => this.#end(JSON.parse(data)));
    // It would come back by itself, but without pauses that grow.
    source.onerror = () => this.#end({ code: 1006, reason: "" });
  }

  send(data) {
    this.#queue.push(data);
    if (!this.#posting) this.#post();
  }

  close() {
    if (this.readyState < 2) this.readyState = 2;
    // What was sent before still goes.
    if (!this.#posting) this.#source.close();
  }

  async #post() {
    this.#posting = true;
    try {
      while (this.readyState < 3 && this.#queue.length) {
        const body = this.#queue[0];
        const type = typeof body === "string" ? "text/plain" : "application/octet-stream";
        const headers = { ...this.#headers, "Content-Type": type };
        const { ok, status } = await fetch(this.#url, { method: "POST", body, headers, credentials: "include" });
        if (ok) this.#queue.shift();
        else if (status === 429) await new Promise((done) => setTimeout(done, 1000));
        else this.#end({ code: status === 413 ? 1009 : 1006, reason: `a message was refused: ${status}` });
      }
    } catch (error) {
      this.#end({ code: 1006, reason: String(error) });
    }
    this.#posting = false;
    if (this.readyState > 1) this.#source.close();
  }

  #end(end) {
    this.readyState = 3;
    this.#source.close();
    this.onclose?.(end);
  }
}

export class Connmix {
  #url;
  #options;
  #state = "closed";
  #socket = null;
  /** The only one: what it does depends on the state. */
  #timer;
  /** Of this attempt to connect; another one, or none, has another. */
  #attempt = 0;
  /** Connections in a row that failed, or did not last. */
  #failures = 0;
  #again = false;
  /** Attempts by WebSocket in a row that failed, before any has succeeded. */
  #blocked = 0;
  /** This attempt is for an event stream; undefined before it is known. */
  #streams;
  /** The last position that an event stream told. */
  #last;
  #openedAt = 0;
  #queue = [];
  #heard = false;
  #asking = false;

  constructor(url, options = {}) {
    const { firstDelay = 500, maxDelay = 30_000, connectTimeout = 15_000, maxQueue = 100 } = options;
    const { pingInterval = 25_000, pingTimeout = 10_000, ...rest } = options;
    const numbers = { firstDelay, maxDelay, connectTimeout, maxQueue, pingInterval, pingTimeout };
    for (const [name, value] of Object.entries(numbers)) {
      // What a timer does not understand is 0 to it: a storm of connects.
      const good = Number.isFinite(value) && value < 2 ** 31 && (value > 0 || (value === 0 && name === "maxQueue"));
      if (!good) throw new RangeError(`${name} must be a positive number below 2^31`);
    }
    this.#url = url;
    this.#options = { ...rest, ...numbers };
    this.open();
  }

  get state() {
    return this.#state;
  }

  open() {
    if (this.#state === "connecting" || this.#state === "open") return;
    if (this.#state === "closed") this.#listen("addEventListener");
    this.#connect();
  }

  send(data) {
    // The browser may know of an end that it has yet to tell.
    if (this.#state === "open" && this.#socket.readyState === 1) {
      this.#socket.send(data);
      return true;
    }
    if (this.#state === "closed" || this.#queue.length >= this.#options.maxQueue) return false;
    this.#queue.push(data);
    return true;
  }

  close(code = 1000, reason = "") {
    this.#socket?.close(code, reason); // first, since a wrong code throws
    this.#leave("closed");
  }

  async #connect() {
    this.#leave("connecting");
    this.#streams = undefined;
    const attempt = this.#attempt;
    this.#timer = setTimeout(() => this.#ended(1006, "no connection in time"), this.#options.connectTimeout);
    try {
      const url = typeof this.#url === "function" ? await this.#url() : this.#url;
      if (attempt !== this.#attempt) return;
      const blocked = this.#blocked > 1 || !globalThis.WebSocket;
      this.#streams = blocked && this.#options.eventStream !== false && !!globalThis.EventSource;
      this.#dial(this.#streams ? new Stream(url, this.#last) : new WebSocket(url, this.#options.protocols));
    } catch (error) {
      if (attempt === this.#attempt) this.#ended(1006, String(error));
    }
  }

  #dial(socket) {
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      // Who has had a WebSocket can have one.
      if (!this.#streams) this.#blocked = -Infinity;
      const again = this.#again;
      this.#again = true;
      this.#state = "open";
      this.#openedAt = performance.now();
      this.#rest();
      call(this.#options.onopen, { again });
      // What the hook has sent is ahead. It may also have closed.
      while (this.#socket === socket && socket.readyState === 1 && this.#queue.length) {
        socket.send(this.#queue.shift());
      }
    };
    socket.onmessage = ({ data, lastEventId }) => {
      this.#heard = true;
      this.#last = lastEventId || this.#last;
      call(this.#options.onmessage, data);
    };
    socket.onclose = ({ code, reason }) => this.#ended(code, reason);
  }

  /** The connection is over, or there is none: decides what next. */
  #ended(code, reason) {
    if (this.#state === "open" && performance.now() - this.#openedAt >= STABLE) this.#failures = 0;
    // After a stream that could not be had, a WebSocket is tried again.
    if (this.#state === "connecting" && this.#streams !== undefined) this.#blocked = this.#streams ? 1 : this.#blocked + 1;
    const attempt = this.#attempt;
    const next = call(this.#options.retry, { code, reason }) ?? verdict(code, reason);
    if (attempt !== this.#attempt) return; // the hook has closed
    const { firstDelay, maxDelay } = this.#options;
    // Full jitter: anywhere up to the bound, so that those who left together do not come together.
    let delay = Math.random() * Math.min(maxDelay, firstDelay * 2 ** this.#failures);
    // A server that stops gives each client a time of its own.
    const asked = code === 1012 && next === "later" && /, retry=(\d+)$/.exec(reason);
    if (asked) delay = Math.min(maxDelay, Math.max(asked[1], this.#failures && delay));
    if (next === "now" && !this.#failures) delay = 0;
    if (next === "never") delay = null;
    this.#failures++;
    this.#socket?.close(); // of one that is dead, too
    this.#leave(delay === null ? "closed" : "waiting");
    if (delay !== null) this.#timer = setTimeout(() => this.#connect(), delay);
    call(this.#options.onclose, { code, reason, delay });
  }

  /** Goes to a state without a connection: nothing of the one there was is heard any more. */
  #leave(state) {
    clearTimeout(this.#timer);
    this.#attempt++;
    if (this.#socket) this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket = null;
    this.#state = state;
    if (state === "closed") {
      this.#failures = 0;
      this.#queue = [];
      this.#listen("removeEventListener");
    }
  }

  /** Waits until it is time for the next ping. */
  #rest() {
    clearTimeout(this.#timer);
    this.#asking = false;
    if (this.#options.ping !== undefined) this.#timer = setTimeout(() => this.#ask(), this.#options.pingInterval);
  }

  /** Pings, and ends the connection if nothing comes for so long: TCP alone may not notice for a quarter of an hour. */
  #ask() {
    if (this.#options.ping === undefined || this.#asking) return;
    clearTimeout(this.#timer);
    this.#asking = true;
    this.#heard = false;
    this.#socket.send(this.#options.ping);
    const answered = () => (this.#heard ? this.#rest() : this.#ended(1006, "no answer to the ping"));
    this.#timer = setTimeout(answered, this.#options.pingTimeout);
  }

  #listen(change) {
    globalThis[change]?.("online", this.#wake);
    globalThis[change]?.("offline", this.#wake);
    globalThis.document?.[change]("visibilitychange", this.#wake);
  }

  /** The network or the page has changed: a good moment to connect, or to see whether the connection still is one. */
  #wake = ({ type }) => {
    if (type === "visibilitychange" && document.hidden) return;
    if (this.#state === "waiting" && type !== "offline") this.#connect();
    if (this.#state === "open") this.#ask();
  };
}
