// The center's calls. The browser sends what the user has logged in with.

export class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function problem(reply) {
  const text = await reply.text();
  try {
    return new Failure(reply.status, JSON.parse(text).E.m);
  } catch {
    return new Failure(reply.status, `HTTP ${reply.status}`);
  }
}

/** Paths are relative to the page's; not to its whole address, which may hold a password. */
const at = (path) => new URL(path, location.origin + location.pathname);

/** Asks by GET, or with a body by POST; gives `r`. */
export async function call(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const reply = await fetch(at(path), { ...options, signal: AbortSignal.timeout(10_000) });
  if (!reply.ok) throw await problem(reply);
  return (await reply.json()).r;
}

export const query = (values) => {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== false && value !== undefined);
  return new URLSearchParams(given.map(([name, value]) => [name, value === true ? "1" : value])).toString();
};

/** Hands out the events of a tail until `stop` is called; comes back when the center does. */
export function tail(filter, { onevent, onstate }) {
  const stop = new AbortController();
  let delay = 1000;
  // Every stream begins with the last lines of the log: those that were handed out are not again.
  let [before, newest] = [[0, []], [0, []]];
  const isNew = (event, line) => {
    if (event.event !== "log") return true;
    if (event.at < before[0] || (event.at === before[0] && before[1].includes(line))) return false;
    if (event.at > newest[0]) newest = [event.at, []];
    if (event.at === newest[0]) newest[1].push(line);
    return true;
  };
  const read = async () => {
    before = [newest[0], [...newest[1]]];
    const reply = await fetch(at(`/v1/tail?${query(filter)}`), { signal: stop.signal });
    if (!reply.ok) throw await problem(reply);
    onstate(null);
    delay = 1000;
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      const events = lines.filter(Boolean).map((line) => [JSON.parse(line), line]).filter(([event, line]) => isNew(event, line)).map(([event]) => event);
      if (events.length) onevent(events);
    }
  };
  (async () => {
    while (!stop.signal.aborted) {
      try {
        await read();
      } catch (error) {
        if (stop.signal.aborted) return;
        onstate(error);
        // What the user may not do stays so.
        if ([400, 403, 404].includes(error.status)) return;
      }
      await new Promise((wait) => setTimeout(wait, delay));
      delay = Math.min(delay * 2, 15_000);
    }
  })();
  return () => stop.abort();
}
