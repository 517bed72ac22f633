// Where a browser reaches the servers of nodes, as far as that can be told.

const host = (at) => at.slice(0, at.lastIndexOf(":"));
const isAny = (host) => ["0.0.0.0", "[::]", ""].includes(host);

function url(node, server) {
  const [bound, api] = [host(server.address), host(node.api)];
  // What listens on all addresses is where this page comes from, or where the node's API is.
  const name = !isAny(bound) ? bound : node.center || isAny(api) ? location.hostname : api;
  return `${server.tls ? "wss" : "ws"}://${name}:${server.address.slice(bound.length + 1)}${server.path || "/"}`;
}

export function urls(figures) {
  const websocket = ({ protocol }) => protocol === "websocket";
  return (figures?.nodes ?? []).flatMap((node) => node.servers.filter(websocket).map((server) => url(node, server)));
}
