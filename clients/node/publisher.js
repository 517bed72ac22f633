// Publishing over one connection that comes back.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { CallError, Link, pause } from "./link.js";

export class Publisher {
  #url;
  #target;
  #link = null;
  #connecting = null;
  #failures = 0;
  #free;
  #waiting = [];
  #closed = false;

  constructor(url, options = {}) {
    if (!/^(http|ws)s?:/.test(url)) throw new TypeError(`no http, https, ws or wss: ${url}`);
    this.#url = url;
    this.#target = options;
    this.#free = options.inFlight ?? 256;
  }

  async publish(channel, data, { id = randomUUID(), exclude = [], key, priority, timeout = 10000 } = {}) {
    const params = { c: channel, ...encoded(data), id, k: key, pr: priority };
    if (exclude.length > 0) params.x = exclude;
    const r = await this.#call("mesh.publish", params, timeout, true);
    return { reached: r.s, failed: r.f, unanswered: r.u ?? 0, leftOut: "l" in r, position: r.p ?? null, merged: "m" in r };
  }

  async send(client, data, { timeout = 10000 } = {}) {
    try {
      await this.#call("mesh.send", { c: client, ...encoded(data) }, timeout, false);
      return true;
    } catch (e) {
      if (e instanceof CallError && e.code === 401) return false;
      throw e;
    }
  }

  call(method, params, { timeout = 10000 } = {}) {
    return this.#call(method, params, timeout, false);
  }

  close() {
    this.#closed = true;
    this.#link?.close();
  }

  async #call(method, params, timeout, again) {
    let last = "";
    let timer;
    const over = { is: false };
    const late = new Promise((_, fail) => {
      timer = setTimeout(() => {
        over.is = true;
        const error = new Error(`${method}: no reply within ${timeout / 1000} s${last && `; ${last}`}`);
        error.name = "TimeoutError";
        fail(error);
      }, timeout);
    });
    late.catch(() => {});
    const work = async () => {
      await this.#place();
      try {
        while (!over.is) {
          let link;
          try {
            link = await this.#connected();
          } catch (e) {
            if (this.#closed) throw e;
            last = e.message;
            continue; // the pause is in front of the next attempt
          }
          try {
            return await link.call(method, params);
          } catch (e) {
            if (e instanceof CallError || !again || this.#closed) throw e;
            last = e.message;
          }
        }
      } finally {
        this.#leave();
      }
    };
    const working = work();
    working.catch(() => {});
    try {
      return await Promise.race([working, late]);
    } finally {
      clearTimeout(timer);
      over.is = true;
    }
  }

  // In turn, so that messages keep their order.
  #place() {
    if (this.#free > 0) {
      this.#free--;
      return undefined;
    }
    return new Promise((turn) => this.#waiting.push(turn));
  }

  #leave() {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free++;
  }

  #connected() {
    if (this.#closed) throw new Error("the publisher is closed");
    if (!this.#connecting && this.#link && !this.#link.error) return this.#link;
    this.#connecting ??= this.#connect().finally(() => (this.#connecting = null));
    return this.#connecting;
  }

  async #connect() {
    if (this.#failures > 0) await sleep(pause(this.#failures, 100, 5000));
    this.#failures++;
    const link = await Link.connect(this.#url, this.#target);
    if (this.#closed) {
      link.close();
      throw new Error("the publisher is closed");
    }
    this.#failures = 0;
    return (this.#link = link);
  }
}

function encoded(data) {
  if (typeof data === "string") return { d: data };
  if (data instanceof Uint8Array) return { d: Buffer.from(data).toString("base64"), t: "binary" };
  throw new TypeError("data must be a string or bytes: encode it first, as with JSON.stringify");
}
