/** Which engine, and who calls. */
export interface Target {
  /** Of HTTP Basic. */
  user?: string;
  password?: string;
  /** A bearer token, instead of user and password. */
  token?: string;
}

/** The engine's own no: `code` is that of the server API's tables, such as 101 for a wrong argument. */
export class CallError extends Error {
  readonly code: number;
}

/** The connection has ended, or could not be made; `code` of its close frame, 1006 where there was none. */
export class Closed extends Error {
  readonly code: number;
}

/** Whom a message reached: connections that took it, that could not, and nodes of a cluster that did not answer in time. */
export interface Published {
  reached: number;
  failed: number;
  unanswered: number;
  /** It was over the limit of its channel's rule. */
  leftOut: boolean;
  /** Its place in a channel that keeps messages. */
  position: string | null;
  /** It was over the limit, and was added to others with the same key: it is not lost. */
  merged: boolean;
}

export interface PublishOptions {
  /** By it the engine knows a publish that is asked for again; a random one unless given. */
  id?: string;
  /** Ids of clients that do not get it. */
  exclude?: string[];
  /** What it is about, and how much it matters: for channels whose rule asks for it. */
  key?: string;
  priority?: "high" | "normal" | "low";
  /** Milliseconds; 10,000 unless given. */
  timeout?: number;
}

/** Keeps one connection, and makes it again when it must. One for the whole program. */
export class Publisher {
  /** `url` is an engine's API, such as http://127.0.0.1:6789. `inFlight` calls (256 unless given) wait for replies at the same time. */
  constructor(url: string, options?: Target & { inFlight?: number });
  /** Publishes a string as text or bytes as binary. One whose reply is lost is published again by its id: it is delivered once. */
  publish(channel: string, data: string | Uint8Array, options?: PublishOptions): Promise<Published>;
  /** To one client; whether it is there. Not repeated when the connection breaks. */
  send(client: string, data: string | Uint8Array, options?: { timeout?: number }): Promise<boolean>;
  /** Any method of the WebSocket API; its `r`. Not repeated when the connection breaks. */
  call(method: string, params: unknown, options?: { timeout?: number }): Promise<any>;
  close(): void;
}

/** What a handler of the engine pushed. */
export interface Message {
  readonly topic: string;
  readonly data: any;
  /** The client whose handler it was. */
  readonly client: string;
  readonly node: string;
  /** These act on the client, in their order and before the message is settled; nothing waits for them. */
  subscribe(...channels: string[]): void;
  unsubscribe(...channels: string[]): void;
  setContext(values: Record<string, unknown>): void;
  close(code?: number, reason?: string): void;
  send(data: string): void;
  call(name: string, ...values: unknown[]): void;
}

export interface ConsumerOptions extends Target {
  /** Messages that are worked on at the same time; 1 unless given, in their order then. */
  concurrency?: number;
  /** Gets a line for what goes wrong; `console.warn` unless given. */
  log?: (line: string) => void;
}

/** Takes the messages of topics; one is settled when the handler's promise is fulfilled, and comes again if it is rejected. */
export class Consumer {
  constructor(url: string, topics: string[], handler: (message: Message) => unknown, options?: ConsumerOptions);
  /** Consumes until `stop` is called. */
  run(): Promise<void>;
  /** Lets what is being worked on end. */
  stop(): void;
}
