// The console: which part is shown, and how the nodes are.

import { call, query } from "./api.js";
import { channels } from "./channels.js";
import { client } from "./client.js";
import { h, number } from "./dom.js";
import { live } from "./live.js";
import { overview, remember } from "./overview.js";
import { scripts } from "./scripts.js";
import { send } from "./send.js";
import { choose, preferred, speak, t } from "./words.js";

const VIEWS = { overview, channels, client, live, scripts, send };
/** How often the nodes are asked, in milliseconds. */
const EVERY = 2000;

const main = document.getElementById("main");
const health = document.getElementById("health");
const select = document.getElementById("language");
let figures = null;
let view = null;

const place = () => {
  const [name, search = ""] = location.hash.slice(1).split("?");
  return { name: name in VIEWS ? name : "overview", params: new URLSearchParams(search) };
};

function go(name, params, show = true) {
  const hash = `#${name}?${query(params)}`;
  if (show) location.hash = hash;
  else history.replaceState(null, "", hash);
}

/** Shows the part that the address names. `focus`: the user has just gone there. */
function show(focus) {
  const { name, params } = place();
  view?.stop?.();
  const write = figures?.write ?? false;
  view = VIEWS[name]({ params, write, go, figures: () => figures });
  const heading = h("h1", { tabindex: "-1" }, t(name));
  const lacks = figures && !write && ["channels", "client", "send", "live"].includes(name);
  main.replaceChildren(heading, lacks ? h("p", { class: "note" }, t("readOnly")) : "", view.element);
  if (figures) view.update?.(figures);
  document.title = `${t(name)} – connmix`;
  const link = (key) => h("a", { href: `#${key}`, "aria-current": key === name ? "page" : null }, t(key));
  document.getElementById("nav").replaceChildren(...Object.keys(VIEWS).map(link), figures?.dev ? h("a", { href: "/" }, t("demo")) : "");
  document.querySelector("nav [aria-current]").scrollIntoView({ block: "nearest", inline: "center" });
  document.getElementById("skip").textContent = t("skip");
  document.getElementById("language-label").textContent = t("language");
  if (focus) heading.focus();
}

function say(text, bad) {
  // Read out only when it changes its kind: counts change all the time.
  health.setAttribute("aria-live", health.classList.contains("bad") === bad ? "off" : "polite");
  health.classList.toggle("bad", bad);
  health.textContent = text;
}

async function ask() {
  try {
    const before = figures;
    figures = await call("v1/figures");
    remember(figures);
    // The parts depend on who may write: nothing is shown before that is known.
    if (before?.write !== figures.write) show(false);
    else view.update?.(figures);
    const stuck = figures.nodes.reduce((sum, node) => sum + node.stuck, 0);
    const clients = figures.nodes.reduce((sum, node) => sum + node.clients, 0);
    if (figures.u) say(t("silent", { n: figures.u }), true);
    else if (stuck) say(t("stuck", { n: stuck }), true);
    else say(t("fine", { n: figures.nodes.length, c: number(clients) }), false);
  } catch (error) {
    if (!view) show(false);
    say(error.status ? error.message : t("gone"), true);
  }
  setTimeout(ask, EVERY);
}

speak(preferred());
select.value = document.documentElement.lang;
select.addEventListener("change", () => {
  choose(select.value);
  show(false);
});
addEventListener("hashchange", () => view && show(true));
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
say(t("waiting"), false);
ask();
