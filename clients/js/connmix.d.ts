/** What may be sent. */
export type Sendable = string | ArrayBuffer | ArrayBufferView | Blob;

/**
 * - `connecting`: an attempt is under way.
 * - `open`: connected.
 * - `waiting`: not connected; the next attempt comes by itself.
 * - `closed`: for good, until `open` is called.
 */
export type State = "connecting" | "open" | "waiting" | "closed";

/**
 * What follows the end of a connection: an attempt without a pause (after a second failure in a row, with one), one after a pause,
 * or none.
 */
export type Next = "now" | "later" | "never";

/** Why a connection ended. */
export interface End {
  /**
   * The close code. 1006 also stands for all that came without one: a network that was cut, a ping without an answer, a handshake
   * that was refused (with whatever status), an address that is none or could not be had.
   */
  code: number;
  /** What the server said, or for 1006 what was found out; may be empty. */
  reason: string;
}

export interface Options {
  /** Subprotocols, as for `WebSocket`. */
  protocols?: string | string[];

  /**
   * Called after each connect, before what waits is sent. The server knows nothing of an earlier connection: log in and subscribe
   * here. `again` is true for all but the first connection; messages may have been missed in between.
   */
  onopen?: (open: { again: boolean }) => void;

  /** Called for each message: a string, or an `ArrayBuffer` if it is binary. */
  onmessage?: (data: string | ArrayBuffer) => void;

  /**
   * Called when a connection has ended, or an attempt has failed; not after `close`. `delay` is the time until the next attempt, in
   * milliseconds; null if there will be none.
   */
  onclose?: (close: End & { delay: number | null }) => void;

  /**
   * What to do after a close, for codes of your own script. Whatever is left undefined is decided by the code: after 1000, 1002, 1005,
   * 1007, 1008, 1009 and 4000 to 4999 never; after 1001 with the reason `read timeout` now; after all others later, which after 1012 is when its
   * reason says (`retry=MS`).
   */
  retry?: (end: End) => Next | undefined | void;

  /**
   * A message that your script answers, with anything. It is sent every `pingInterval`, and when the page is shown or the network
   * changes; a connection on which nothing comes for `pingTimeout` afterwards is given up. Without it there are no pings: those of
   * the server keep a connection alive, but pages can't see them.
   */
  ping?: Sendable;
  /** Milliseconds; default 25000. Together with `pingTimeout` less than the server's `readTimeout`. */
  pingInterval?: number;
  /** Milliseconds; default 10000. */
  pingTimeout?: number;

  /**
   * The longest that the first pause may be, in milliseconds; default 500. The bound doubles with each failure in a row, up to
   * `maxDelay`; a pause is a random part of its bound. A connection that lasted for 10 s ends the row.
   */
  firstDelay?: number;
  /** The longest a pause may ever be, in milliseconds; default 30000. */
  maxDelay?: number;
  /** How long an attempt may take, in milliseconds; default 15000. */
  connectTimeout?: number;

  /** Messages that wait for the next connection; default 100, 0 for none. */
  maxQueue?: number;

  /**
   * False: never an event stream. Otherwise, where the browser has no WebSocket or the first two attempts by one have failed, the next
   * attempt is for an event stream (the server needs `eventStream: on`), and they take turns until one succeeds. Messages then come by
   * server-sent events and go by POST, one after the other.
   */
  eventStream?: boolean;
}

/** A WebSocket that comes back, or an event stream where none can be had. It connects when it is made. */
export class Connmix {
  /**
   * @param url Where the server is, as `wss://example.com/chat`; or a function that says so before each attempt, for a token that
   * expires. If it throws or rejects, the attempt has failed.
   * @throws RangeError if one of the numbers in the options is none that makes sense.
   */
  constructor(url: string | URL | (() => string | URL | Promise<string | URL>), options?: Options);

  readonly state: State;

  /** Connects now: instead of waiting, or again after the end. Does nothing while it connects or is connected. */
  open(): void;

  /**
   * Sends, or keeps the message until there is a connection. False if it does neither: `maxQueue` messages wait already, or the state
   * is `closed`. True is no receipt: what was sent on a connection that then broke may be lost.
   */
  send(data: Sendable): boolean;

  /**
   * Ends the connection for good. No hook is called afterwards, and messages that wait are dropped.
   * @param code 1000 (the default), or 3000 to 4999; another one throws.
   */
  close(code?: number, reason?: string): void;
}
