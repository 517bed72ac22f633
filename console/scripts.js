// The versions of scripts, their errors, and the log.

import { tail } from "./api.js";
import { ago, check, h, status, table } from "./dom.js";
import { line } from "./live.js";
import { name } from "./overview.js";
import { t } from "./words.js";

/** The most lines of each kind that are shown. */
const MOST = 200;

export function scripts({ figures }) {
  const versions = h("section", { class: "card" });
  const none = h("p", { class: "dim" }, t("noErrors"));
  const errors = h("ol", { class: "lines", tabindex: "0", "aria-label": t("errorsNow") });
  const log = h("ol", { class: "lines", tabindex: "0", "aria-label": t("log") });
  const said = status();
  const [field, only] = check(t("warnings"), { checked: true, change: begin });
  let stop = null;

  function add(list, events) {
    list.prepend(...events.slice(-MOST).reverse().map(line));
    while (list.children.length > MOST) list.lastChild.remove();
  }
  function onevent(events) {
    const failed = events.filter(({ event }) => event === "error");
    if (failed.length) none.remove();
    add(errors, failed);
    add(log, events.filter(({ event, level }) => event === "log" && (!only.checked || level === "warn" || level === "error")));
  }
  function onstate(error) {
    said.say(error ? (error.status === 404 ? t("noTail") : t("again", { e: error.message })) : "", true);
  }
  function begin() {
    stop?.();
    log.replaceChildren();
    stop = tail({ errors: only.checked }, { onevent, onstate });
  }

  function update({ now, nodes }) {
    const rows = nodes.flatMap((node) =>
      node.servers.map(({ address, script }) => [
        name(node),
        address,
        h("code", {}, script.entry),
        String(script.version),
        ago(now - script.since),
        script.error ? h("div", { class: "bad" }, t("notTaken"), h("pre", {}, script.error)) : t("runs"),
      ]),
    );
    const heads = ["node", "server", "script", "version", "since", "scriptState"].map((head) => [t(head)]);
    versions.replaceChildren(table(t("script"), heads, rows));
  }
  if (figures()) update(figures());
  begin();
  const element = h(
    "div",
    {},
    versions,
    said.element,
    h("section", { class: "card" }, h("h2", {}, t("errorsNow")), none, errors),
    h("section", { class: "card" }, h("h2", {}, t("log")), field, log),
  );
  return { element, update, stop: () => stop?.() };
}
