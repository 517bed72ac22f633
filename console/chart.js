// A small chart of lines over time, drawn as SVG. Its figures stand beside it as text.

import { h } from "./dom.js";

const WIDTH = 400;
const HEIGHT = 110;
const TOP = 14;

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The next number at or above it that is good to read: 1, 2 or 5 with zeros. */
export function nice(value) {
  if (!(value > 0)) return 1;
  const ten = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((n) => n * ten).find((n) => n >= value * 0.9999) ?? 10 * ten;
}

/** `show` writes a value; `top` rounds the greatest one up to the scale's end. */
export function chart(title, show, top = nice) {
  const now = h("p", { class: "now" });
  const note = h("p", { class: "beside" });
  const plot = svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const most = h("small", { class: "dim most" });
  const element = h("figure", { class: "card" }, h("h2", {}, title), now, note, plot, most);
  return {
    element,
    /** `lines`: each with a class and points [time, value]; all times lie from `from` to `to`. `text` is the figure now. */
    draw(lines, from, to, text, beside = "") {
      const values = lines.flatMap((line) => line.points.map(([, value]) => value));
      const end = top(Math.max(...values, 0));
      const x = (at) => (((at - from) / (to - from)) * WIDTH).toFixed(1);
      const y = (value) => (HEIGHT - 1 - (value / end) * (HEIGHT - TOP)).toFixed(1);
      const grid = [0, 0.5, 1].map((part) => svg("line", { x1: 0, x2: WIDTH, y1: y(end * part), y2: y(end * part) }));
      const drawn = lines.map(({ kind, points }) => svg("polyline", { class: kind, points: points.map(([at, value]) => `${x(at)},${y(value)}`).join(" ") }));
      plot.replaceChildren(...grid, ...drawn);
      now.textContent = text;
      note.textContent = beside;
      most.textContent = `0 – ${show(end)}`;
    },
  };
}
