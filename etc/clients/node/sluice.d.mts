/** A worker for sluiced; see sluice.mjs. */
export declare const version: string;

export interface FailOptions {
  /** Never again. */
  dead?: boolean;
  /** Not before so many milliseconds. */
  retryMs?: number;
  /** The entry it is about, in a batch. */
  id?: string;
}

/** Thrown by a handler: it failed. */
export declare class Fail extends Error {
  constructor(reason?: string, options?: FailOptions);
  readonly dead: boolean;
  readonly retryMs?: number;
  readonly id?: string;
}

/** Thrown by a handler: give the stream back, no retry is counted. */
export declare class Release extends Error {
  constructor(options?: { retryMs?: number });
  readonly retryMs?: number;
}

/** run() cannot go on: "bad_hello", "bad_version", "unauthorized", "clock", "unconfirmed", "internal". */
export declare class SluiceError extends Error {
  readonly code: string;
}

/** One entry of a data stream. */
export declare class Entry {
  readonly id: string;
  readonly tries: number;
  /** In their order, duplicates kept; what is not UTF-8 is a Buffer. */
  readonly fields: [string | Buffer, string | Buffer][];
  /** The value of the last field of that name. */
  get(name: string): string | Buffer | undefined;
}

/** What a handler works on. */
export declare class Job {
  private constructor();
  readonly lease: string;
  readonly service: string;
  readonly stream: string;
  readonly id: string;
  /** Give it to what you write to, and let it refuse lower ones (compare as text). */
  readonly token: string;
  readonly retry: number;
  readonly info: any;
  /** info as JSON text, where its numbers are larger than JavaScript's. */
  readonly infoText: string;
  readonly trace: { traceparent?: string; tracestate?: string; baggage?: string };
  /** Aborts when the handler has to stop. */
  readonly signal: AbortSignal;
  /** The work goes on; the note is shown by sluicectl. */
  progress(note?: string): void;
  /** Everything up to and including this entry is finished. */
  ack(id: string): void;
  /** Ends the lease of an entries stream after this call of the handler. */
  finish(): void;
}

export interface Options {
  /** Shown by sluicectl; default: program, host, process. */
  name?: string;
  /** Only streams of these services. */
  services?: string[];
  /** At SIGTERM and stop(): finish what is held, or give it back uncounted. Default "finish". */
  onTerm?: "finish" | "release";
  /** Where warnings go; default: standard error. */
  log?: (text: string) => void;
}

export type StreamHandler = (job: Job) => unknown;
export type EntryHandler = (job: Job, entry: Entry) => unknown;
export type BatchHandler = (job: Job, entries: Entry[]) => unknown;

/** Takes streams from sluiced, at most `credits` at once. socket null: $SLUICED_WORKER, else /run/sluiced/worker.sock. */
export declare class Worker {
  constructor(socket: string | null | undefined, handler: StreamHandler, credits?: number, options?: Options);
  constructor(socket: string | null | undefined, handler: EntryHandler, credits: number, options: Options & { entries: "each" });
  constructor(socket: string | null | undefined, handler: BatchHandler, credits: number, options: Options & { entries: "batch" });
  /** Resolves when the worker has left after stop() or a signal; rejects with a SluiceError when it cannot go on. */
  run(): Promise<void>;
  /** No new work, finish, leave. */
  stop(): void;
}
