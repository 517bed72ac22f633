// A barrage: comments that fly over a moving picture. Reads and subscribes as any page does (connmix.js), and plays the back
// end that publishes.

import { call } from "../console/api.js";
import { urls } from "../console/servers.js";
import { choose, preferred, speak } from "../console/words.js";
import { Connmix } from "./connmix.js";
import { play } from "./picture.js";

const VIDEO = 100001;
const CHANNEL = `video:${VIDEO}`;
const FROM = `local OK = '{"result":true}'`;
const TO = `local OK = '{"result":true,"color":"gold"}'`;
const RULE = "channels: [{match: 'video:', history: {size: 20}}]";
const LANES = 8;

const WORDS = {
  en: {
    title: "Comments that fly over a picture",
    picture: "A train passes by night at the sea",
    console: "Console",
    language: "Language",
    text: "Your comment",
    send: "Send",
    how: "What happens",
    steps: [
      `This page has a WebSocket to the engine, and has sent \`{"op":"subscribe","channel":"${VIDEO}@video"}\`.`,
      `The script below has put the connection into the channel \`${CHANNEL}\`.`,
      "When you send, the page plays the back end: one HTTP request publishes to the channel.",
      "All that are in it get the comment. Open this page twice.",
    ],
    heard: "Comments",
    edit: "Change the code while it runs",
    open: "Open this file, change the first line to the second, and save. The comments turn golden; no connection ends.",
    own: "Change this file and save: the new version runs at once, and no connection ends.",
    none: "The script is shown where center and engine are one process.",
    first: "from",
    second: "to",
    late: "Those who come late",
    lateOff: "They get the last comments where the channel keeps some. In connmix.yaml take away the # in front of this line, or write it under engine; save, and open this page again:",
    lateOn: (n) => `The channel keeps its last comments: this page has got ${n} of them.`,
    online: (n) => `${n} online`,
    version: (version, answer) => `Version ${version} runs.${answer ? ` Its answer was ${answer}` : ""}`,
    refused: "The file has an error, and the version before goes on:",
    connecting: "Connecting to %u",
    connected: "Connected to %u",
    closed: (why) => `Closed with ${why}`,
    failed: (why) => `It was not sent: ${why}`,
    nowhere: "The configuration has no WebSocket server.",
    other: "The script of this project is no barrage, and its clients send something else: no comments fly here. The console has, for any script, a",
    talk: "WebSocket client",
  },
  zh: {
    title: "飞过画面的弹幕",
    picture: "夜里一列火车从海边驶过",
    console: "控制台",
    language: "语言",
    text: "您的弹幕",
    send: "发送",
    how: "发生了什么",
    steps: [
      `本页与引擎之间有一个 WebSocket 连接，并已发送 \`{"op":"subscribe","channel":"${VIDEO}@video"}\`。`,
      `下面的脚本把这个连接放进了频道 \`${CHANNEL}\`。`,
      "您点击发送时，本页扮演后端：用一个 HTTP 请求向频道发布。",
      "频道里的所有连接都会收到。请把本页打开两次试试。",
    ],
    heard: "弹幕列表",
    edit: "不停机修改代码",
    open: "打开这个文件，把第一行改成第二行，保存。弹幕变成金色，没有一个连接断开。",
    own: "修改这个文件并保存：新版本立即生效，没有一个连接断开。",
    none: "中心和引擎在同一个进程中时，这里显示脚本。",
    first: "从",
    second: "改为",
    late: "后来的人",
    lateOff: "如果频道保留消息，后来的人会收到最近的弹幕。在 connmix.yaml 里去掉这一行前面的 #，没有这一行就写到 engine 下面；保存，再重新打开本页：",
    lateOn: (n) => `这个频道保留最近的弹幕：本页刚才收到了 ${n} 条。`,
    online: (n) => `${n} 人在线`,
    version: (version, answer) => `正在运行第 ${version} 版。${answer ? `它的应答是 ${answer}` : ""}`,
    refused: "文件有错误，之前的版本继续运行：",
    connecting: "正在连接 %u",
    connected: "已连接 %u",
    closed: (why) => `连接已关闭：${why}`,
    failed: (why) => `没有发出：${why}`,
    nowhere: "配置中没有 WebSocket 服务。",
    other: "这个项目的脚本不是弹幕，它的客户端发送的是别的内容，所以这里没有弹幕可看。请在控制台里与它对话：",
    talk: "WebSocket 客户端",
  },
};

const $ = (id) => document.getElementById(id);
const words = () => WORDS[document.documentElement.lang];
/** Whether the script takes what this page sends; one that is not shown here may. */
const isBarrage = () => !shown || shown.text.includes("@video");
const code = (text) => Object.assign(document.createElement("code"), { textContent: text });
const item = (text) => Object.assign(document.createElement("li"), { textContent: text });
/** A text of ours with code between backticks. */
function step(text) {
  const li = document.createElement("li");
  li.append(...text.split("`").map((part, n) => (n % 2 ? code(part) : part)));
  return li;
}

let state = () => "";
let script = null;
let shown = null;
let answer = "";
let colour = "";
let online = null;
let client = null;
/** How many comments were there before; null: the channel keeps none. */
let kept = null;
let bad = false;

function tell(text, isBad = false) {
  [state, bad] = [text, isBad];
  $("state").textContent = text();
  $("state").classList.toggle("bad", isBad);
}

/** Writes all texts in the language that is chosen. */
function write() {
  const w = words();
  $("title").textContent = w.title;
  $("picture").setAttribute("aria-label", w.picture);
  $("console").textContent = w.console;
  $("language-label").textContent = w.language;
  $("text-label").textContent = $("text").placeholder = w.text;
  $("send").textContent = w.send;
  $("how-title").textContent = w.how;
  $("how").replaceChildren(...w.steps.map(step));
  $("heard-title").textContent = w.heard;
  $("heard").setAttribute("aria-label", w.heard);
  $("edit-title").textContent = w.edit;
  $("late-title").textContent = w.late;
  if (kept === null) $("late").replaceChildren(w.lateOff, " ", code(RULE));
  else $("late").textContent = w.lateOn(kept);
  $("online").textContent = online === null ? "" : w.online(online);
  $("online").hidden = online === null;
  tell(state, bad);
  writeScript();
}

function writeScript() {
  const w = words();
  const talk = Object.assign(document.createElement("a"), { href: "/console/#send", textContent: w.talk });
  $("other").replaceChildren(w.other, " ", talk);
  $("other").hidden = isBarrage();
  for (const id of ["stage", "form", "state", "barrage"]) $(id).hidden = !isBarrage();
  const shipped = shown && (shown.text.includes(FROM) || shown.text.includes(TO));
  if (shown) $("edit").replaceChildren(shipped ? w.open : w.own, " ", code(shown.file));
  else $("edit").replaceChildren(w.none, " ", code(script?.entry ?? ""));
  $("from").hidden = $("to").hidden = !shipped;
  $("from").replaceChildren(`${w.first} `, code(FROM));
  $("to").replaceChildren(`${w.second} `, code(TO));
  $("version").textContent = script ? w.version(script.version, answer) : "";
  $("error").hidden = !script?.error;
  $("error").textContent = script?.error ? `${w.refused}\n${script.error}` : "";
  $("source").hidden = !shown;
  $("source").setAttribute("aria-label", shown?.file ?? "");
  const lines = (shown?.text ?? "").replace(/\n$/, "").split("\n").map((text) => {
    const line = item(text);
    if (text.startsWith("local OK = ")) line.className = "here";
    return line;
  });
  const [at, first] = [$("source").scrollTop, !$("source").children.length];
  $("source").replaceChildren(...lines);
  const here = $("source").querySelector(".here");
  $("source").scrollTop = first && here ? here.offsetTop - 120 : at;
}

/** When each lane has room again. */
const free = new Array(LANES).fill(0);

function fly(text, kind) {
  const now = performance.now();
  let lane = free.findIndex((at) => at <= now);
  if (lane < 0) lane = free.indexOf(Math.min(...free));
  const line = document.createElement("span");
  line.textContent = text;
  line.className = kind;
  line.style.top = `${4 + (lane * 88) / LANES}%`;
  if (colour) line.style.color = colour;
  line.addEventListener("animationend", () => line.remove());
  $("screen").append(line);
  // The way is as long as the screen and the text; its end has come in when the text has passed.
  const [way, long] = [$("screen").clientWidth, line.clientWidth];
  free[lane] = now + (9000 * long) / (way + long) + 400;
  $("heard").prepend(Object.assign(document.createElement("p"), { textContent: text }));
  while ($("heard").children.length > 50) $("heard").lastChild.remove();
}

const mine = new Set();

function heard(data, kind = "") {
  let message;
  try {
    message = JSON.parse(data);
  } catch {
    // A back end may publish anything.
    return fly(data, kind);
  }
  if (message?.event === "@video") {
    const { msg, uid } = message.data ?? {};
    if (typeof msg === "string") fly(msg, mine.delete(`${uid} ${msg}`) ? "own" : kind);
  } else if (message?.result) {
    answer = data;
    colour = typeof message.color === "string" ? message.color : "";
    for (const line of $("screen").children) line.style.color = colour;
    writeScript();
  } else if (typeof message?.msg === "string") {
    tell(() => message.msg, true);
  }
}

const subscribe = () => client?.send(JSON.stringify({ op: "subscribe", channel: `${VIDEO}@video` }));

function connect(url) {
  const at = (text) => () => text().replace("%u", url);
  tell(at(() => words().connecting));
  client = new Connmix(url, {
    onopen() {
      tell(at(() => words().connected));
      subscribe();
    },
    onmessage: (data) => {
      if (kept === null && live.size < 1000) live.add(data);
      heard(data);
    },
    onclose: ({ code, reason }) => tell(() => words().closed(`${code} ${reason}`.trim()), true),
  });
}

/** What has come live while the comments before it are asked for: it is among these, too. */
const live = new Set();

/** The comments of those who were here before. */
async function past() {
  if (!(await call(`/console/v1/rule?c=${CHANNEL}`)).history) return;
  const { m } = await call("/console/v1/mesh/history", { c: CHANNEL, limit: 20 });
  kept = m.length;
  write();
  for (const { d } of m) {
    if (live.has(d)) continue;
    heard(d, "past");
    await new Promise((wait) => setTimeout(wait, 150));
  }
}

/** What runs, and whether that has changed. */
async function look() {
  try {
    const figures = await call("/console/v1/figures");
    const of = figures.nodes.flatMap(({ servers }) => servers).find(({ protocol }) => protocol === "websocket");
    const changed = script && of && (script.version !== of.script.version || script.error !== of.script.error);
    if (changed) subscribe();
    const first = !script;
    script = of?.script ?? null;
    if (first || changed) {
      shown = await call("/console/v1/script").catch(() => null);
      writeScript();
    }
    if (!client && isBarrage()) {
      const [url] = urls(figures);
      if (url) {
        connect(url);
        await past();
      }
      else tell(() => words().nowhere, true);
    }
    online = (await call("/console/v1/mesh/count", { c: CHANNEL })).n;
    $("online").textContent = words().online(online);
    $("online").hidden = false;
  } catch {
    // The client says when the engine is gone.
  }
  setTimeout(look, 1000);
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const msg = $("text").value.trim();
  if (!msg) return;
  const uid = Math.floor(Math.random() * 1e6);
  mine.add(`${uid} ${msg}`);
  try {
    const d = JSON.stringify({ event: "@video", data: { uid, video_id: VIDEO, msg } });
    await call("/console/v1/mesh/publish", { c: CHANNEL, d });
    $("text").value = "";
  } catch (error) {
    tell(() => words().failed(error.message), true);
  }
});
$("language").addEventListener("change", () => {
  choose($("language").value);
  write();
});
speak(preferred());
$("language").value = document.documentElement.lang;
write();
play($("picture"));
look();
