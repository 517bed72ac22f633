// What happens on all nodes, as it happens.

import { query, tail } from "./api.js";
import { check, clock, field, h, status } from "./dom.js";
import { t } from "./words.js";

/** The most events that are shown. */
const MOST = 400;

const has = (value) => value !== undefined && value !== null;

/** An event in words, without what stands in front of it. */
export function words(event) {
  const { channel, bytes, kind } = event;
  const where = [has(channel) && `${t("channel")} ${channel}`].filter(Boolean);
  const data = has(event.data) ? `: ${event.data}${event.cut ? "…" : ""}` : has(event.data64) ? `: base64 ${event.data64}` : "";
  const rest = {
    connect: () => [event.address],
    refused: () => [event.address, event.status, event.cause, event.text],
    message: () => [`${bytes} B ${kind}${data}`],
    published: () => [`${bytes} B`, has(event.reached) && `→ ${event.reached}${event.failed ? `, ${event.failed} ✗` : ""}${event.unanswered ? `, ${event.unanswered} ?` : ""}`],
    delivered: () => [has(event.reached) && `→ ${event.reached}${event.failed ? `, ${event.failed} ✗` : ""}`, `${bytes} B ${kind}${data}`],
    handler: () => [event.hook, `${event.ms} ms`, event.ok ? "" : "✗"],
    subscribe: () => [event.channels?.join(", "), event.more && `+${event.more}`],
    unsubscribe: () => [event.channels?.join(", "), event.more && `+${event.more}`],
    dropped: () => [event.cause],
    closed: () => [event.reason, event.code, event.text, event.waiting && `${t("toWrite")}: ${event.waiting} B`],
    error: () => [event.file && `${event.file}${event.line ? `:${event.line}` : ""}`, event.hook ?? event.timer, event.text],
    log: () => [event.text],
    lost: () => [event.count],
    unanswered: () => [event.nodes],
    end: () => [event.text],
  }[event.event];
  return [...where, ...(rest?.() ?? [])].filter((part) => has(part) && part !== false && part !== "").join(" · ");
}

/** One line of it. */
export function line(event) {
  const kind = event.event === "log" ? { error: "error", warn: "warn" }[event.level] : event.event;
  const what = event.event === "log" ? event.level : event.event;
  // The client's own part tells more of it.
  const client = has(event.client) ? [`${t("client")} `, h("a", { href: `#client?${query({ c: event.client })}` }, event.client), " · "] : [];
  const text = h("code", { class: "wrap", title: event.node }, client, words(event));
  return h("li", { class: kind }, h("time", {}, has(event.at) ? clock(event.at) : ""), h("b", {}, what), text);
}

export function live({ params, write }) {
  const channel = h("input", { value: params.get("channel") ?? "", spellcheck: "false", autocomplete: "off" });
  const client = h("input", { value: params.get("client") ?? "", inputmode: "numeric", pattern: "[0-9]{1,20}", autocomplete: "off" });
  const [errorsField, errors] = check(t("onlyErrors"));
  const [bodiesField, bodies] = check(t("bodies"), { disabled: !write });
  const lines = h("ol", { class: "lines", tabindex: "0", "aria-label": t("live") });
  const said = status();
  const button = h("button", {}, t("start"));
  let stop = null;

  function onevent(events) {
    const shown = events.filter(({ event }) => event !== "watching" && event !== "alive").slice(-MOST);
    lines.prepend(...shown.reverse().map(line));
    while (lines.children.length > MOST) lines.lastChild.remove();
  }
  function onstate(error) {
    if (!error) return said.say(t("watching"));
    said.say(error.status === 404 ? t("noTail") : t("again", { e: error.message }), true);
  }
  function halt() {
    stop?.();
    stop = null;
    button.textContent = t("start");
    said.say(t("stopped"));
  }
  function begin() {
    const filter = { channel: channel.value.trim(), client: client.value.trim(), errors: errors.checked, bodies: bodies.checked };
    lines.replaceChildren();
    button.textContent = t("stop");
    history.replaceState(null, "", `#live?${query({ channel: filter.channel, client: filter.client })}`);
    stop = tail(filter, { onevent, onstate });
  }
  const submit = (event) => {
    event.preventDefault();
    if (stop) halt();
    else begin();
  };
  const element = h(
    "div",
    {},
    h("p", { class: "dim" }, t("liveHelp")),
    h("form", { submit }, field(t("channel"), channel), field(t("clientId"), client), errorsField, bodiesField, h("p", { class: "narrow" }, button)),
    said.element,
    h("section", { class: "card" }, lines),
  );
  if (channel.value || client.value) begin();
  return { element, stop: () => stop?.() };
}
