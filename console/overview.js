// The charts of all nodes, and the nodes.

import { chart, nice } from "./chart.js";
import { ago, bytes, h, number, seconds, table } from "./dom.js";
import { t } from "./words.js";

/** So long is what the charts show, in milliseconds. */
const SPAN = 180_000;
/** At the beginning it is this. */
const LEAST = 30_000;
/** The upper bounds of handlers' times, in seconds: those of the metrics' histogram. */
const BOUNDS = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1, 3, 10];
/** Quantiles are taken over so many answers. */
const WINDOW = 5;

/** By node: what it told, the oldest first. */
const history = new Map();

/** Keeps what the nodes have told. */
export function remember({ now, nodes }) {
  for (const node of nodes) {
    const past = history.get(node.node) ?? [];
    past.push({ ...node, seen: now });
    while (past[0].seen < now - SPAN - 5000) past.shift();
    history.set(node.node, past);
  }
  for (const [node, past] of history) if (past.at(-1).seen < now - SPAN) history.delete(node);
}

/** How fast a counter grows, at each answer but the first. */
function rate(past, value) {
  return past.slice(1).map((node, i) => {
    const passed = (node.at - past[i].at) / 1000;
    return [node.seen, passed > 0 ? Math.max(0, (value(node) - value(past[i])) / passed) : 0];
  });
}

/** Below what time that part of the handlers' calls was: within the step of the histogram, evenly. */
export function quantile(counts, part) {
  const all = counts.reduce((sum, n) => sum + n, 0);
  if (!all) return null;
  let rank = part * all;
  for (const [i, n] of counts.entries()) {
    if (rank <= n) {
      const low = i ? BOUNDS[i - 1] : 0;
      return low + ((BOUNDS[i] ?? low) - low) * (n ? rank / n : 0);
    }
    rank -= n;
  }
  return BOUNDS.at(-1);
}

function quantiles(past, part) {
  const points = [];
  for (let i = 1; i < past.length; i++) {
    const before = past[Math.max(0, i - WINDOW)].handlers;
    const value = quantile(past[i].handlers.map((n, at) => Math.max(0, n - before[at])), part);
    if (value !== null) points.push([past[i].seen, value]);
  }
  return points;
}

/** A scale for bytes ends at a power of two. */
const binary = (value) => 2 ** Math.ceil(Math.log2(Math.max(value, 2 ** 20)));

const last = (points) => points.at(-1)?.[1] ?? 0;
const sum = (values) => values.reduce((sum, value) => sum + value, 0);

export function overview() {
  const rates = (value) => number(value, value < 10 ? 1 : 0);
  const charts = {
    clients: chart(t("connections"), number, (value) => Math.max(nice(value), 5)),
    deliveries: chart(t("deliveries"), rates),
    received: chart(t("received"), rates),
    handlers: chart(t("handlers"), seconds, (value) => nice(value || 1e-3)),
    memory: chart(t("memory"), bytes, binary),
    processor: chart(t("processor"), (value) => `${number(value, 2)} ${t("cores")}`),
  };
  const legend = h("ul", { class: "legend" });
  const nodes = h("section", { class: "card" });
  const element = h(
    "div",
    {},
    h("p", { class: "dim" }, t("minutes")),
    h("div", { class: "grid" }, Object.values(charts).map((one) => one.element)),
    legend,
    nodes,
  );

  function update({ now, nodes: all }) {
    const told = all.map((node, i) => ({ node, past: history.get(node.node), kind: `c${i % 6}` }));
    const engines = told.filter(({ node }) => node.engine);
    const lines = (of, points) => of.map(({ past, kind }) => ({ kind, points: points(past) }));
    const oldest = Math.min(...told.map(({ past }) => past[0].seen));
    const from = Math.max(now - SPAN, Math.min(oldest, now - LEAST));
    const draw = (name, drawn, text, beside) => charts[name].draw(drawn, from, now, text, beside);
    const now_ = (drawn) => sum(drawn.map((line) => last(line.points)));
    const speed = (value) => now_(lines(engines, (past) => rate(past, value)));

    const clients = lines(engines, (past) => past.map((node) => [node.seen, node.clients]));
    const channels = sum(engines.map(({ node }) => node.channels));
    draw("clients", clients, number(sum(engines.map(({ node }) => node.clients))), t("inChannels", { c: number(channels) }));
    const deliveries = lines(engines, (past) => rate(past, (node) => node.delivered));
    const beside = t("published", { p: rates(speed((node) => node.published)), d: rates(speed((node) => node.dropped)) });
    draw("deliveries", deliveries, rates(now_(deliveries)), beside);
    const received = lines(engines, (past) => rate(past, (node) => node.read));
    draw("received", received, rates(now_(received)), t("waits", { n: number(sum(engines.map(({ node }) => node.waiting))) }));
    const memory = lines(told, (past) => past.map((node) => [node.seen, node.memory]));
    draw("memory", memory, bytes(sum(told.map(({ node }) => node.memory))), t("lua", { n: bytes(sum(told.map(({ node }) => node.lua))) }));
    const processor = lines(told, (past) => rate(past, (node) => node.cpu_micros / 1e6));
    draw("processor", processor, number(now_(processor), 2), t("cores"));

    const median = lines(engines, (past) => quantiles(past, 0.5));
    const slow = engines.map(({ past, kind }) => ({ kind: `${kind} alt`, points: quantiles(past, 0.99) }));
    const worst = (drawn) => Math.max(...drawn.map((line) => last(line.points)), 0);
    const any = median.some((line) => line.points.length);
    draw("handlers", [...median, ...slow], any ? seconds(worst(median)) : "–", any ? t("handlersNow", { p: seconds(worst(slow)) }) : "");

    legend.replaceChildren(...(told.length > 1 ? told.map(({ node, kind }) => h("li", {}, h("i", { class: kind }), name(node))) : []));
    const heads = [t("node"), t("roles"), t("version"), t("started"), [t("clients"), true], [t("memory"), true], [t("workers"), true]];
    const rows = told.map(({ node }) => [
      h("span", {}, name(node), h("br"), h("code", { class: "dim" }, node.node)),
      [node.engine && t("engine"), node.center && t("center")].filter(Boolean).join(", "),
      node.version,
      h("time", { title: new Date(node.started).toString() }, ago(now - node.started)),
      number(node.clients),
      bytes(node.memory),
      node.stuck ? h("span", { class: "bad" }, t("stuck", { n: node.stuck })) : number(node.workers),
    ]);
    nodes.replaceChildren(table(t("nodes"), heads.map((head) => [head].flat()), rows));
  }
  return { element, update };
}

/** A node as a person knows it. */
export const name = (node) => node.api || node.node;
