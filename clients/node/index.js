// Back ends of connmix: publishing, and consuming queues, over its WebSocket API. No dependencies.

export { CallError, Closed } from "./link.js";
export { Publisher } from "./publisher.js";
export { Consumer } from "./consumer.js";
