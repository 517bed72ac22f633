// What is known of one client.

import { call, query } from "./api.js";
import { ago, bytes, field, h, number, status, sure } from "./dom.js";
import { t } from "./words.js";

export function client({ params, write, go, figures }) {
  const id = h("input", { value: params.get("c") ?? "", inputmode: "numeric", pattern: "[0-9]{1,20}", required: true, autocomplete: "off" });
  const said = status();
  const known = h("section", { class: "card", hidden: true });
  // Of a client that has gone, too.
  const channel = h("input", { spellcheck: "false", autocomplete: "off" });
  const reason = status();
  const why = async () => {
    const r = await call(`/v1/why?${query({ client: id.value.trim(), channel: channel.value })}`);
    reason.say(`${r.verdict.replaceAll("_", " ")}: ${r.because}`);
  };
  const ask = (event) => {
    event.preventDefault();
    reason.of(why);
  };
  const asking = h(
    "section",
    { class: "card", hidden: true },
    h("h2", {}, t("whyNot")),
    h("form", { submit: ask }, field(t("whyIn"), channel), h("p", { class: "narrow" }, h("button", { class: "quiet" }, t("ask")))),
    reason.element,
  );

  async function show() {
    known.hidden = true;
    asking.hidden = false;
    said.say("");
    reason.say("");
    const c = id.value.trim();
    const r = await call(`v1/clients/${encodeURIComponent(c)}`);
    const node = figures()?.nodes.find((node) => node.node === r.node);
    const fact = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
    const close = () =>
      sure(t("closeIt", { c })) && said.of(async () => said.say(t("closed", { n: (await call("v1/mesh/close", { c, code: 1000, reason: "console" })).s })));
    known.hidden = false;
    known.replaceChildren(
      h(
        "dl",
        {},
        fact(t("node"), node ? `${node.api} (${r.node})` : r.node),
        fact(t("server"), node?.servers[r.server]?.address ?? String(r.server)),
        fact(t("address"), r.address),
        fact(t("came"), ago(Date.now() - r.since * 1000)),
        fact(t("inOut"), t("counts", { i: number(r.in), o: number(r.out) })),
        fact(t("subscriptions"), number(r.subscriptions)),
        fact(t("toWrite"), bytes(r.waiting)),
      ),
      h("h2", {}, t("channels")),
      r.channels.length
        ? h("ul", { class: "chips" }, r.channels.map((c) => h("li", {}, h("a", { href: `#channels?${query({ c })}` }, c))))
        : h("p", { class: "dim" }, t("none")),
      h(
        "div",
        { class: "buttons" },
        h("button", { class: "quiet", type: "button", click: () => go("live", { client: c }) }, t("watch")),
        h("button", { class: "quiet", type: "button", disabled: !write, click: () => go("send", { to: c }) }, t("sendTo")),
        h("button", { class: "danger", type: "button", disabled: !write, click: close }, t("close")),
      ),
    );
  }

  const submit = (event) => {
    event.preventDefault();
    go("client", { c: id.value.trim() }, false);
    said.of(show);
  };
  const element = h(
    "div",
    {},
    h("p", { class: "dim" }, t("clientHelp")),
    h("form", { submit }, field(t("clientId"), id), h("p", { class: "narrow" }, h("button", {}, t("look")))),
    said.element,
    known,
    asking,
  );
  if (id.value) said.of(show);
  return { element };
}
