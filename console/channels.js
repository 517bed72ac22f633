// Channels with their counts, and one of them.

import { call, query } from "./api.js";
import { field, h, number, status, sure, table } from "./dom.js";
import { t } from "./words.js";

export function channels({ params, write, go }) {
  const prefix = h("input", { value: params.get("prefix") ?? "", spellcheck: "false", autocomplete: "off" });
  const said = status();
  const list = h("div", { "aria-live": "off" });
  const more = h("button", { class: "quiet", type: "button", click: () => said.of(() => load(true)), hidden: true }, t("more"));
  const one = h("section", { class: "card", hidden: true });
  let found = [];
  let after;

  async function load(further = false) {
    const r = await call(`v1/channels?${query({ prefix: prefix.value, after: further ? after : "", limit: 100 })}`);
    found = further ? [...found, ...r.channels] : r.channels;
    after = r.after;
    more.hidden = after === undefined;
    const link = (c) => h("a", { href: `#channels?${query({ c, prefix: prefix.value })}` }, c);
    list.replaceChildren(
      found.length ? table(null, [[t("channel")], [t("count"), true]], found.map(({ c, n }) => [link(c), number(n)])) : h("p", { class: "dim" }, t("none")),
    );
    said.say(r.u ? t("unanswered", { n: r.u }) : "", true);
  }

  async function show(c) {
    const told = status();
    const who = h("div");
    const closing = h(
      "button",
      {
        class: "danger",
        type: "button",
        disabled: !write,
        click: () =>
          sure(`${t("closeAll")}: ${c}`) &&
          told.of(async () => told.say(t("closed", { n: (await call("v1/mesh/close", { ch: c, code: 1000, reason: "console" })).s }))),
      },
      t("closeAll"),
    );
    const { n } = await call("v1/mesh/count", { c });
    one.hidden = false;
    one.replaceChildren(
      h("h2", { class: "wrap" }, c),
      h("p", { class: "now" }, number(n), h("small", {}, ` ${t("count")}`)),
      h(
        "div",
        { class: "buttons" },
        h("button", { class: "quiet", type: "button", click: () => go("live", { channel: c }) }, t("watch")),
        h("button", { class: "quiet", type: "button", disabled: !write, click: () => go("send", { c }) }, t("publishTo")),
        closing,
      ),
      told.element,
      who,
    );
    const rule = await call(`v1/rule?${query({ c })}`);
    if (rule.presence) {
      const r = await call("v1/mesh/presence", { c, limit: 100 });
      const rows = r.clients.map(({ c, node, i }) => [h("a", { href: `#client?${query({ c })}` }, c), h("code", {}, node), i === undefined ? "" : h("code", {}, JSON.stringify(i))]);
      who.replaceChildren(table(t("who"), [[t("client")], [t("node")], [t("info")]], rows));
    } else who.replaceChildren(h("p", { class: "dim" }, t("noPresence")));
    if (rule.history) {
      const { m } = await call("v1/mesh/history", { c, limit: 20 });
      const lines = m.reverse().map(({ p, d }) => [h("code", { class: "dim" }, p), h("code", {}, d)]);
      who.append(h("h2", {}, t("kept")), lines.length ? table(null, [[t("place")], [t("message")]], lines) : h("p", { class: "dim" }, t("none")));
    }
  }

  const submit = (event) => {
    event.preventDefault();
    said.of(load);
  };
  const element = h(
    "div",
    {},
    h("form", { submit }, field(t("prefix"), prefix), h("p", { class: "narrow" }, h("button", {}, t("show")))),
    said.element,
    one,
    h("section", { class: "card" }, list, more),
  );
  said.of(load);
  if (params.has("c")) said.of(() => show(params.get("c")));
  return { element };
}
