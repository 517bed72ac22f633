// Elements. What is a text stays a text: nothing that clients or scripts say becomes markup.

import { t } from "./words.js";

/** An element with these attributes, and children that are elements or texts. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

let ids = 0;

/** A labelled field in a paragraph; `.field` of it is the field. */
export function field(label, element, kind = "") {
  element.id ||= `f${++ids}`;
  const paragraph = h("p", { class: kind }, h("label", { for: element.id }, label), element);
  return paragraph;
}

export function check(label, attributes = {}) {
  const input = h("input", { type: "checkbox", ...attributes });
  return [h("p", { class: "narrow" }, h("label", { class: "check" }, input, label)), input];
}

export function table(caption, heads, rows) {
  const cell = (tag, value, number) => h(tag, { class: number ? "number" : "wrap", scope: tag === "th" ? "col" : null }, value);
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": caption ?? heads[0][0] },
    h(
      "table",
      {},
      caption && h("caption", {}, caption),
      h("thead", {}, h("tr", {}, heads.map(([name, number]) => cell("th", name, number)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((value, i) => cell("td", value, heads[i][1]))))),
    ),
  );
}

/** A place for what came of an action, which is read out. */
export function status() {
  const element = h("p", { class: "result", role: "status" });
  return {
    element,
    say(text, bad = false) {
      element.textContent = text;
      element.classList.toggle("bad", bad);
    },
    /** Runs it, and tells what fails. */
    async of(work) {
      try {
        await work();
      } catch (error) {
        this.say(error.message, true);
      }
    },
  };
}

export const language = () => document.documentElement.lang;
const formats = new Map();

export function number(value, digits = 0) {
  const key = `${language()}${digits}`;
  if (!formats.has(key)) formats.set(key, new Intl.NumberFormat(language(), { maximumFractionDigits: digits }));
  return formats.get(key).format(value);
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; value >= 1024 && at < units.length - 1; at++) value /= 1024;
  return `${number(value, value < 10 && at ? 1 : 0)} ${units[at]}`;
}

export function seconds(value) {
  if (value < 1e-3) return `${number(value * 1e6)} µs`;
  if (value < 1) return `${number(value * 1e3, value < 0.1 ? 1 : 0)} ms`;
  return `${number(value, 1)} s`;
}

export function ago(ms) {
  const [unit, size] = [["day", 864e5], ["hour", 36e5], ["minute", 6e4], ["second", 1e3]].find(([, size]) => ms >= size) ?? ["second", 1e3];
  return new Intl.RelativeTimeFormat(language(), { numeric: "auto" }).format(-Math.round(ms / size), unit);
}

export const clock = (at) => new Date(at).toTimeString().slice(0, 8) + "." + String(at % 1000).padStart(3, "0");

/** Asks before what can't be undone. */
export const sure = (what) => confirm(`${what}\n\n${t("sure")}`);
