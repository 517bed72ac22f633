// Publishing and sending, and a client of one's own.

import { call } from "./api.js";
import { clock, field, h, status } from "./dom.js";
import { urls } from "./servers.js";
import { t } from "./words.js";

/** The most lines that the client shows. */
const MOST = 200;

function kinds() {
  return h("select", {}, h("option", { value: "text" }, t("text")), h("option", { value: "binary" }, t("binary")));
}

function sending(params, write) {
  const form = (name, label, value, attributes, work) => {
    const to = h("input", { value, required: true, spellcheck: "false", autocomplete: "off", ...attributes });
    const data = h("textarea", { spellcheck: "false" });
    const kind = kinds();
    const said = status();
    const submit = (event) => {
      event.preventDefault();
      said.of(async () => said.say(await work({ c: to.value, d: data.value, t: kind.value })));
    };
    return h(
      "section",
      { class: "card" },
      h("h2", {}, name),
      h(
        "form",
        { submit },
        field(label, to),
        field(t("kind"), kind),
        field(t("message"), data, "whole"),
        h("p", { class: "narrow" }, h("button", { disabled: !write }, t("sendIt"))),
      ),
      said.element,
    );
  };
  return [
    form(t("toChannel"), t("channel"), params.get("c") ?? "", { id: "channel" }, async (message) => {
      const r = await call("v1/mesh/publish", message);
      return t("published1", { s: r.s, f: r.f }) + (r.u ? ` ${t("unanswered", { n: r.u })}` : "");
    }),
    form(t("toClient"), t("clientId"), params.get("to") ?? "", { inputmode: "numeric", pattern: "[0-9]{1,20}" }, async (message) => {
      await call("v1/mesh/send", message);
      return t("sent");
    }),
  ];
}

function websocket(figures) {
  const known = urls(figures);
  const options = h("datalist", { id: "urls" }, known.map((url) => h("option", { value: url })));
  const address = h("input", { value: known[0] ?? "", list: "urls", required: true, spellcheck: "false", autocomplete: "off" });
  const message = h("textarea", { spellcheck: "false" });
  const lines = h("ol", { class: "lines", tabindex: "0", "aria-label": t("websocket") });
  const said = status();
  const connect = h("button", {}, t("connect"));
  const send = h("button", { disabled: true }, t("sendIt"));
  let socket = null;

  function line(kind, text) {
    const at = Date.now();
    lines.prepend(h("li", { class: kind }, h("time", {}, clock(at)), h("b", {}, kind), h("code", { class: "wrap" }, text)));
    while (lines.children.length > MOST) lines.lastChild.remove();
  }

  function ended(text, bad) {
    socket = null;
    send.disabled = true;
    connect.textContent = t("connect");
    said.say(text, bad);
  }

  const dial = (event) => {
    event.preventDefault();
    if (socket) return socket.close();
    try {
      socket = new WebSocket(address.value);
    } catch (error) {
      return ended(error.message, true);
    }
    let opened = false;
    socket.binaryType = "arraybuffer";
    connect.textContent = t("disconnect");
    socket.onopen = () => {
      opened = true;
      send.disabled = false;
      said.say(t("open"));
    };
    socket.onmessage = ({ data }) => line("in", typeof data === "string" ? data : `${data.byteLength} B: ${[...new Uint8Array(data.slice(0, 256))].map((b) => b.toString(16).padStart(2, "0")).join(" ")}`);
    socket.onclose = ({ code, reason }) => ended(opened ? `${t("ended", { c: code })} ${reason}` : t("refused"), !opened);
  };
  const say = (event) => {
    event.preventDefault();
    socket?.send(message.value);
    line("out", message.value);
  };
  const element = h(
    "section",
    { class: "card" },
    h("h2", {}, t("websocket")),
    h("form", { submit: dial }, field(t("url"), address), options, h("p", { class: "narrow" }, connect)),
    said.element,
    h("form", { submit: say }, field(t("message"), message, "whole"), h("p", { class: "narrow" }, send)),
    lines,
  );
  return { element, stop: () => socket?.close() };
}

export function send({ params, write, figures }) {
  const client = websocket(figures());
  const element = h("div", {}, h("div", { class: "grid" }, sending(params, write)), client.element);
  return { element, stop: client.stop };
}
