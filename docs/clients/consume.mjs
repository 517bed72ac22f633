// Logs clients in: takes messages from the queue "login", and tells the engine who each client is.
// node consume.mjs (Node 22 or later; 20.10 or later with --experimental-websocket)

const api = process.env.CONNMIX_API ?? "http://127.0.0.1:6789";
const user = process.env.CONNMIX_USER ?? "backend:change-me";
const users = new Map([["ann-token", 1001], ["bob-token", 1002]]); // a database, in earnest
let wait = 500;

function connect() {
  const ws = new WebSocket(api.replace("http", "ws") + "/ws/v1", {
    headers: { Authorization: "Basic " + Buffer.from(user).toString("base64") },
  });
  const ask = (method, params) => ws.send(JSON.stringify({ m: method, p: params, i: method }));
  let heard = true;

  // A connection that brings not even a pong is dead, though nobody may ever tell.
  const pulse = setInterval(() => {
    if (!heard) return over("silence");
    heard = false;
    if (ws.readyState === WebSocket.OPEN) ws.send("ping");
  }, 20000);

  function login({ c: client, d: data, k: key }) {
    const uid = users.get(data.token);
    if (uid === undefined) {
      ask("conn.call", { c: client, f: "close", a: [4001, "please log in"] });
    } else {
      // In this order: when the client hears of its login, it is in its channel.
      ask("conn.call", { c: client, f: "subscribe", a: [`user:${uid}`] });
      ask("conn.call", { c: client, f: "set_context_value", a: ["uid", uid] });
    }
    console.log(`client ${client}: user ${uid ?? "unknown"}`);
    // Last: whatever breaks before leaves the message to be delivered again.
    ask("queue.ack", [key]);
  }

  function over(why) {
    ws.onopen = ws.onmessage = ws.onerror = ws.onclose = null;
    ws.close();
    clearInterval(pulse);
    console.log(`no connection: ${why}`);
    // Later each time, and not all consumers at once.
    setTimeout(connect, wait * (0.5 + Math.random() / 2));
    wait = Math.min(wait * 2, 30000);
  }

  ws.onopen = () => {
    wait = 500;
    ask("queue.pop", { t: ["login"], ack: true });
  };
  ws.onmessage = (event) => {
    heard = true;
    if (event.data === "pong") return;
    const message = JSON.parse(event.data);
    if (message.e === "queue.pop") login(message.p);
    else if (message.E) console.log(`${message.i}: ${message.E.c}, ${message.E.m}`);
    else if (message.i === "queue.pop") console.log("consuming");
  };
  // Node 20 and 22 tell of a failed attempt with an error alone, and no close.
  ws.onerror = (event) => over(event.message);
  ws.onclose = (event) => over(`${event.code} ${event.reason}`);
}

connect();
