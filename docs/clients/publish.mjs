// Publishes each line of its input to a channel: node publish.mjs news (Node 18 or later)

import { createInterface } from "node:readline";

const api = process.env.CONNMIX_API ?? "http://127.0.0.1:6789";
const user = process.env.CONNMIX_USER ?? "backend:change-me";

// fetch keeps connections open, and opens one anew when the engine has closed it.
async function publish(channel, data) {
  const reply = await fetch(api + "/v1/mesh/publish", {
    method: "POST",
    headers: {
      Authorization: "Basic " + Buffer.from(user).toString("base64"),
      "Content-Type": "application/json",
    },
    body: JSON.stringify({ c: channel, d: data }),
    signal: AbortSignal.timeout(5000),
  });
  const text = await reply.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(`HTTP ${reply.status}`); // not the engine's: of a proxy, for example
  }
  if (answer.E) throw new Error(`HTTP ${reply.status}, ${answer.E.c}: ${answer.E.m}`);
  return { reached: answer.r.s, failed: answer.r.f };
}

for await (const line of createInterface({ input: process.stdin })) {
  try {
    const { reached, failed } = await publish(process.argv[2], line);
    console.log(`reached ${reached}, failed ${failed}`);
  } catch (e) {
    console.error(`not published: ${e.cause?.message ?? e.message}`);
    process.exit(1);
  }
}
