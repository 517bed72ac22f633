// Consuming queues: each message is settled when it has been worked off, and comes again if it was not.

import { Link, pause } from "./link.js";

export class Consumer {
  #url;
  #topics;
  #handler;
  #options;
  #failures = 0;
  #stopping = false;
  #wake = () => {};
  #stop;
  #stopped = new Promise((stop) => (this.#stop = stop));

  constructor(url, topics, handler, options = {}) {
    if (!/^(http|ws)s?:/.test(url)) throw new TypeError(`no http, https, ws or wss: ${url}`);
    this.#url = url;
    this.#topics = topics;
    this.#handler = handler;
    this.#options = { concurrency: 1, log: (line) => console.warn(line), ...options };
  }

  async run() {
    while (!this.#stopping) {
      try {
        await this.#connection();
      } catch (e) {
        this.#options.log(`connmix: no connection: ${e.message}`);
      }
      if (!this.#stopping) {
        let timer;
        const rest = new Promise((over) => (timer = setTimeout(over, pause(++this.#failures, 500, 30000))));
        await Promise.race([rest, this.#stopped]);
        clearTimeout(timer);
      }
    }
  }

  stop() {
    this.#stopping = true;
    this.#stop();
    this.#wake();
  }

  async #connection() {
    const messages = []; // the engine gives no more than 1,024 that are not settled
    // Workers take what is there; when nothing is, one wait is enough for all.
    let some = null;
    const more = () => (some ??= new Promise((come) => (this.#wake = () => ((some = null), come()))));
    const link = await Link.connect(this.#url, this.#options, (event) => {
      messages.push(event.p);
      this.#wake();
    });
    link.ended.then(() => this.#wake());
    try {
      const ended = link.ended.then((error) => Promise.reject(error));
      ended.catch(() => {});
      await Promise.race([link.call("queue.pop", { t: this.#topics, ack: true }), ended, this.#stopped]);
      const work = async () => {
        while (!this.#stopping && !link.error) {
          const message = messages.shift();
          if (message) await this.#settle(link, message);
          else await more();
        }
      };
      let failed;
      const workers = Array.from({ length: this.#options.concurrency }, () => work().catch((e) => ((failed = e), link.close())));
      await Promise.all(workers);
      if (failed) throw failed;
      if (link.error) throw link.error;
      // Its reply comes behind those of all calls before, so that nothing is on its way when the connection ends.
      await Promise.race([link.call("queue.unpop", {}), ended]);
    } finally {
      link.close();
    }
  }

  async #settle(link, { t: topic, d: data, c: client, n: node, k: key }) {
    const ask = (method, params) => {
      link.call(method, params).catch((e) => e.name === "CallError" && this.#options.log(`connmix: a call failed: ${e.message}`));
    };
    const call = (name, ...values) => ask("conn.call", { c: client, f: name, a: values });
    const message = {
      topic,
      data,
      client,
      node,
      call,
      subscribe: (...channels) => call("subscribe", ...channels),
      unsubscribe: (...channels) => call("unsubscribe", ...channels),
      setContext: (values) => call("set_context", values),
      close: (code = 1000, reason = "") => call("close", code, reason),
      send: (text) => ask("mesh.send", { c: client, d: text }),
    };
    try {
      await this.#handler(message);
    } catch (e) {
      this.#options.log(`connmix: a message of ${topic} was not worked off, and comes again: ${e?.stack ?? e}`);
      throw e instanceof Error ? e : new Error(String(e));
    }
    ask("queue.ack", [key]);
    this.#failures = 0;
  }
}
