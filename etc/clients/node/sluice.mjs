/* sluice - a worker for sluiced. One ES module, Node 18 or newer, nothing else.
 *
 *   import { Worker } from "./sluice.mjs";
 *   await new Worker("/run/sluiced/worker.sock", async (job) => {
 *     console.log(job.stream, job.info, job.token);
 *   }, 4).run();
 *
 * The handler returns: the stream is done. It throws: one retry is counted, with the error as reason; Fail and Release say more.
 * SIGTERM and SIGINT: no new work, what is held is finished, then run() resolves. A lost connection or a restarted daemon costs
 * nothing: the work goes on, the worker comes back with what it holds, and results are told until they are confirmed.
 *
 * job.signal (an AbortSignal) aborts when the stream is revoked, or when the fence (the time until which the daemon promised the
 * stream) comes near because the daemon is frozen or away. The connection lives in a thread of its own, so pings are answered and
 * the fence holds also while a handler blocks the event loop. JavaScript cannot be stopped from outside: when a handler has not
 * ended in time, this process is killed, the only sure way left to keep two workers from one stream.
 *
 * Entries mode (services with entries: {enabled: true}): {entries: "each"}: handler(job, entry) for each entry, acknowledged when it
 * has returned; {entries: "batch"}: handler(job, entries). */
import { writeSync } from "node:fs";
import { createConnection } from "node:net";
import { hostname } from "node:os";
import { basename } from "node:path";
import process from "node:process";
import { Worker as Thread, isMainThread, parentPort, workerData } from "node:worker_threads";

export const version = "0.2.0";
const DEFAULT_SOCKET = "/run/sluiced/worker.sock";
const PAUSE_FIRST = 100, PAUSE_MOST = 2000;
const PROGRESS_ROOM = 1 << 20; // more than that waits for the daemon: progress is left out
const REASON_BYTES = 1024;
const RETRY_MS_MOST = 86400000;

/** Thrown by a handler: it failed. dead: never again; retryMs: not before; id: the entry it is about, in a batch. */
export class Fail extends Error {
  constructor(reason = "", { dead = false, retryMs, id } = {}) {
    super(reason);
    Object.assign(this, { name: "Fail", dead, retryMs, id });
  }
}

/** Thrown by a handler: give the stream back, no retry is counted. */
export class Release extends Error {
  constructor({ retryMs } = {}) {
    super("released");
    Object.assign(this, { name: "Release", retryMs });
  }
}

/** run() cannot go on; code: what the daemon said (bad_hello, unauthorized, bad_version), "clock" (no common clock), "unconfirmed". */
export class SluiceError extends Error {
  constructor(code, text) {
    super(text);
    Object.assign(this, { name: "SluiceError", code });
  }
}

/** One entry of a data stream: id, tries, fields = [[name, value], …] in order; what is not UTF-8 is a Buffer. */
export class Entry {
  constructor([id, flat, tries]) {
    const values = flat.map((v) => (typeof v === "object" && v !== null ? Buffer.from(v.b64, "base64") : v));
    this.id = id;
    this.tries = tries ?? 0;
    this.fields = [];
    for (let i = 0; i + 1 < values.length; i += 2) this.fields.push([values[i], values[i + 1]]);
  }
  /** The value of the last field of that name. */
  get(name) {
    for (let i = this.fields.length - 1; i >= 0; i--) if (this.fields[i][0] === name) return this.fields[i][1];
    return undefined;
  }
}

/** What a handler works on. */
export class Job {
  #report;
  #abort = new AbortController();
  #line;
  constructor(line, report) {
    const f = JSON.parse(line);
    this.#line = line;
    this.#report = report;
    for (const k of ["lease", "service", "stream", "id", "token"]) this[k] = f[k];
    this.retry = f.retry ?? 0;
    this.info = f.info ?? null;
    this.trace = f.trace ?? {};
    this.wantsEnd = false;
  }
  get signal() {
    return this.#abort.signal;
  }
  /** info as it was added, where numbers are larger than JavaScript's. */
  get infoText() {
    const [from, to] = spanOfInfo(this.#line);
    return from < 0 ? "null" : this.#line.slice(from, to).trim();
  }
  /** The work goes on; the note is shown by sluicectl. */
  progress(note) {
    this.#report("p", note === undefined ? undefined : clean(note));
  }
  /** Everything up to and including this entry, one of this call's, is finished. Another id changes nothing. */
  ack(id) {
    this.#report("a", id);
  }
  /** Ends the lease of an entries stream after this call of the handler. */
  finish() {
    this.wantsEnd = true;
  }
  _stop() {
    this.#abort.abort(new Error("the stream has to stop"));
  }
}

/** Where the value of the top-level `info` stands in a frame. */
function spanOfInfo(line) {
  let depth = 0, from = -1, isInfo = false;
  for (let i = 0; i < line.length; i++) {
    const c = line[i];
    if (c === '"') {
      const begin = i;
      for (i++; i < line.length && line[i] !== '"'; i++) if (line[i] === "\\") i++;
      isInfo = depth === 1 && from < 0 && line.slice(begin, i + 1) === '"info"';
    } else if (c === ":" && isInfo) {
      from = i + 1;
      isInfo = false;
    } else if ((c === "," || c === "}") && depth === 1 && from >= 0) {
      return [from, i];
    } else if (c === "{" || c === "[") depth++;
    else if (c === "}" || c === "]") depth--;
  }
  return [-1, -1];
}

/** What may stand in a frame: whole characters, at most 1 KiB. */
function clean(text) {
  const b = Buffer.from(String(text), "utf8"); // lone surrogates become U+FFFD
  let n = Math.min(b.length, REASON_BYTES);
  while (n < b.length && n > 0 && (b[n] & 0xc0) === 0x80) n--;
  return b.toString("utf8", 0, n);
}

/** What a frame may say of it: a whole number in its range, or nothing. */
function pauseOf(ms) {
  return typeof ms === "number" && !Number.isNaN(ms) ? Math.trunc(Math.min(Math.max(0, ms), RETRY_MS_MOST)) : undefined;
}

const nowMs = () => Number(process.hrtime.bigint()) / 1e6; // CLOCK_MONOTONIC, the clock of until_ms

function isAfter(a, b) {
  if (b === undefined) return true;
  const [am, as = "0"] = a.split("-"), [bm, bs = "0"] = b.split("-");
  const x = BigInt(am), y = BigInt(bm);
  return x > y || (x === y && BigInt(as) > BigInt(bs));
}

// ---- the thread of the program: handlers

/** Takes streams from sluiced, at most `credits` at once, and calls the handler for each. options: name, services, entries ("each",
 * "batch"), onTerm ("finish", "release": give back, uncounted), log (a function for warnings). */
export class Worker {
  #options;
  #handler;
  #thread;
  #jobs = new Map();
  constructor(socket, handler, credits = 1, options = {}) {
    if (!Number.isInteger(credits) || credits < 0 || credits > 10000) throw new RangeError("credits: 0 to 10000");
    const program = basename(process.argv[1] || "node").slice(0, 50), host = (process.env.POD_NAME || hostname()).slice(0, 60);
    const name = `${program}@${host}:${process.pid}`;
    this.#handler = handler;
    this.#options = { name, onTerm: "finish", log: (text) => writeSync(2, `${text}\n`), ...options, credits,
      socket: socket || process.env.SLUICED_WORKER || DEFAULT_SOCKET };
  }

  /** Resolves when the worker has left after stop() or a signal; rejects with a SluiceError when it cannot go on. */
  run() {
    const { log, ...data } = this.#options;
    const stop = () => this.stop();
    this.#thread = new Thread(new URL(import.meta.url), { workerData: { sluice: data } });
    process.on("SIGTERM", stop).on("SIGINT", stop);
    return new Promise((resolve, reject) => {
      this.#thread.on("error", reject);
      this.#thread.on("exit", () => reject(new SluiceError("internal", "its thread ended")));
      this.#thread.on("message", (list) => {
        for (const m of list) {
          if (m.t === "log") log(m.text);
          else if (m.t === "over") {
            process.off("SIGTERM", stop).off("SIGINT", stop);
            this.#thread.terminate();
            if (m.code) reject(new SluiceError(m.code, m.text));
            else resolve();
          } else if (m.t === "cancel") this.#jobs.get(m.lease)?._stop();
          else this.#call(m);
        }
      });
    });
  }

  /** No new work, finish, leave. */
  stop() {
    this.#thread?.postMessage({ kind: "leave" });
  }

  async #call({ lease, line, rows }) {
    const post = (kind, value) => this.#thread.postMessage({ lease, kind, value });
    const job = new Job(line, post);
    this.#jobs.set(lease, job);
    let end = { how: "done" };
    try {
      await this.#handle(job, rows?.map((r) => new Entry(r)));
    } catch (e) {
      if (e instanceof Release) end = { how: "release", retry_ms: pauseOf(e.retryMs) };
      else if (e instanceof Fail)
        end = { how: "fail", reason: clean(e.message), dead: e.dead ? true : undefined, retry_ms: pauseOf(e.retryMs), id: e.id && String(e.id) };
      else end = { how: "fail", reason: clean(e instanceof Error ? `${e.name}: ${e.message}` : e) };
    }
    if (job.signal.aborted) end = { how: "stopped" }; // who was told to stop may have returned early
    this.#jobs.delete(lease);
    post("e", { ...end, finish: job.wantsEnd });
  }

  async #handle(job, entries) {
    if (!entries) return this.#handler(job);
    if (this.#options.entries === "batch") {
      await this.#handler(job, entries);
      if (!job.signal.aborted) job.ack(entries.at(-1).id);
      return;
    }
    for (const e of entries) {
      if (job.signal.aborted) return;
      await this.#handler(job, e);
      job.ack(e.id);
    }
  }
}

// ---- the thread of the connection

class Engine {
  constructor(options) {
    this.options = options;
    this.leases = new Map();
    this.acks = new Set();
    this.posts = [];
    this.pause = PAUSE_FIRST;
    this.lead = 300;
    this.misfits = new Set(); // services without entries, or with them, that were said
    this.isWelcome = this.isLeaving = this.isOver = false;
    parentPort.on("message", (m) => this.turn(() => this.onMessage(m)));
    this.turn(() => this.connect());
  }

  /** Everything happens in turns; what a turn leaves to do is done at its end. */
  turn(f) {
    if (this.isOver) return;
    f();
    this.lookAtTheTime();
    for (const x of this.acks) this.ack(x);
    if (this.posts.length) parentPort.postMessage(this.posts.splice(0));
    clearTimeout(this.timer);
    const at = this.deadline();
    if (at < Infinity) this.timer = setTimeout(() => this.turn(() => {}), Math.max(0, Math.ceil(at - nowMs())));
  }

  deadline() {
    let at = Infinity;
    for (const x of this.leases.values()) if (x.isTold && x.isBusy) at = Math.min(at, x.stopBy);
    if (this.until !== undefined && this.until !== this.fenced) at = Math.min(at, this.until - this.lead);
    if (this.isLeaving && !this.isWelcome && this.until > nowMs()) at = Math.min(at, this.until);
    return at;
  }

  lookAtTheTime() {
    const now = nowMs();
    if (this.until !== undefined && this.until !== this.fenced && now >= this.until - this.lead) {
      this.fenced = this.until;
      for (const x of [...this.leases.values()]) if (!x.isTold && !x.result) this.stopWork(x, this.until);
    }
    let isBusy = false;
    for (const x of this.leases.values()) {
      isBusy ||= x.isBusy;
      if (x.isTold && x.isBusy && now >= x.stopBy) this.die(x);
    }
    if (this.isLeaving && !this.isWelcome) {
      if (this.leases.size && !this.error && now >= this.until && !isBusy)
        this.giveUp("unconfirmed", `${this.leases.size} results were not confirmed: the daemon is away`);
      if (!this.leases.size) this.over();
    }
  }

  die(x) {
    writeSync(2, `sluice: the handler of ${x.assign.stream} did not stop in time: this process is killed\n`);
    process.kill(process.pid, "SIGKILL");
  }

  /** run() rejects as soon as no handler is at work any more. */
  giveUp(code, text) {
    this.error = { code, text };
    this.isLeaving = true;
    this.disconnect();
    for (const x of [...this.leases.values()]) this.lose(x);
  }

  over() {
    if (this.isOver) return;
    this.isOver = true;
    clearTimeout(this.timer);
    this.posts.push({ t: "over", ...this.error });
    const post = () => parentPort.postMessage(this.posts.splice(0));
    if (!this.sock) return post();
    this.sock.once("close", post);
    this.sock.end();
    setTimeout(() => this.sock.destroy(), 1000);
  }

  log(text) {
    this.posts.push({ t: "log", text });
  }

  /** Why there is no session: once, until there is one. */
  trouble(text) {
    if (this.said !== text) this.log(text);
    this.said = text;
  }

  // ---- the socket

  connect() {
    const sock = createConnection(this.options.socket);
    let buf = "";
    sock.setEncoding("utf8");
    this.sock = sock;
    sock.on("connect", () => this.turn(() => this.hello()));
    sock.on("data", (data) => this.turn(() => {
      const lines = (buf + data).split("\n");
      buf = lines.pop();
      for (const line of lines) if (line.trim() && this.sock === sock) this.onLine(line);
    }));
    sock.on("error", (e) => {
      if (e.syscall === "connect" && !this.isOver) this.trouble(`sluice: ${this.options.socket}: ${e.code}; trying until it answers`);
    });
    sock.on("close", () => this.turn(() => { // what is left in buf is half a frame
      if (this.sock === sock) this.connectAgain();
    }));
  }

  connectAgain() {
    this.sock?.destroy();
    this.sock = undefined;
    this.isWelcome = false;
    setTimeout(() => this.turn(() => this.error || this.connect()), this.pause);
    this.pause = Math.min(2 * this.pause, PAUSE_MOST);
  }

  disconnect() {
    this.sock?.end();
    this.sock = undefined;
    this.isWelcome = false;
  }

  hello() {
    const o = this.options;
    const f = { t: "hello", v: 1, name: o.name, credits: this.isLeaving ? 0 : o.credits };
    if (o.services) f.services = o.services;
    if (o.entries) f.entries = true;
    if (this.session) {
      f.session = this.session;
      f.resume = [...this.leases.values()].filter((x) => !x.isQuiet).map((x) => x.name);
    }
    this.helloAt = nowMs();
    this.send(f);
  }

  send(f) {
    this.sock?.write(`${JSON.stringify(f)}\n`);
  }

  onLine(line) {
    let f;
    try {
      f = JSON.parse(line);
    } catch {
      // said below
    }
    if (typeof f?.t !== "string") {
      this.trouble(`sluice: ${this.options.socket}: this is not the worker protocol: ${line.slice(0, 80)}; connecting again`);
      return this.connectAgain();
    }
    if (f.until_ms != null) this.until = f.until_ms;
    const x = this.leases.get(f.lease);
    switch (f.t) {
      case "welcome": return this.onWelcome(f);
      case "assign": return this.onAssign(f, line, x);
      case "entries": return this.onEntries(f, x);
      case "ok": return this.onOk(f, x);
      case "ping": return this.send({ t: "pong", n: f.n ?? undefined });
      case "revoke":
        if (!x) this.send({ t: "revoked", lease: f.lease });
        else if (!x.result) this.stopWork(x, nowMs() + (f.grace_ms ?? 0));
        return;
      case "ended": return x && this.lose(x);
      case "err": return this.onErr(f, x);
    }
  }

  // ---- frames

  onWelcome(f) {
    const mine = nowMs();
    if (f.now_ms != null && (f.now_ms < this.helloAt - f.lease_ms || f.now_ms > mine + f.lease_ms)) { // written between hello and now
      this.send({ t: "bye" });
      return this.giveUp("clock", `this worker's monotonic clock says ${Math.round(mine)} ms, the daemon's ${f.now_ms} ms: they share no `
        + "clock (another host, or a time namespace), so no fence could hold");
    }
    if (f.now_ms == null && this.options.entries) { // 0.1 would ignore that we want entries, and assign streams without end
      this.send({ t: "bye" });
      return this.giveUp("bad_version", `${f.server} is older than entries mode, which came with sluiced 0.2`);
    }
    for (const name of f.not_served ?? []) {
      if (!this.misfits.has(name)) this.log(`sluice: ${name} is in entries mode: this worker takes no entries, so it gets nothing of it`);
      this.misfits.add(name);
    }
    this.session = f.session;
    this.isWelcome = true;
    this.said = undefined;
    this.pause = PAUSE_FIRST;
    this.lead = Math.min(500, f.lease_ms / 10);
    const resumed = new Set(f.resumed ?? []), gone = new Map((f.gone ?? []).map((g) => [g.lease, g.outcome]));
    for (const x of [...this.leases.values()]) {
      if (resumed.has(x.name)) {
        this.resume(x);
        continue;
      }
      if (x.result && gone.get(x.name) === "lost") this.log(`sluice: ${x.assign.stream}: the result was not accepted, the stream was lost`);
      this.lose(x);
    }
    if (this.isLeaving) this.send({ t: "credits", n: 0 });
    this.maybeLeave();
  }

  resume(x) {
    x.barrier = false;
    x.acked = undefined;
    x.queue = []; // its entries come again
    this.ack(x);
    if (x.result) this.tell(x);
  }

  onAssign(f, line, known) {
    if (known) return;
    if (this.isLeaving) return this.send({ t: "release", lease: f.lease });
    // isBusy: a call of the handler is under way; isTold: to stop, by stopBy; isQuiet: nobody waits for an answer; result: to be told
    // until it is confirmed; last: the result as soon as no call is under way; of entries: queue, finished (the last id that is),
    // acked (the last id told over this connection), barrier (a nack is on its way, what comes before its ok is void)
    const x = { name: f.lease, line, assign: { stream: f.stream }, isBusy: false, isTold: false, isQuiet: false, queue: [], barrier: false,
      isFeed: Boolean(this.options.entries) };
    this.leases.set(x.name, x);
    if (this.until !== undefined && nowMs() >= this.until - this.lead) return this.end(x, { t: "revoked" }); // too late: it never begins
    if (x.isFeed && f.entries == null) {
      // somebody else must work on it: it comes back after a while, so that a backlog of them does not go round and round
      if (!this.misfits.has(f.service)) {
        this.misfits.add(f.service);
        this.log(`sluice: ${f.service} is a service without entries: its streams are given back for 30 s each; name the services of this worker`);
      }
      return this.end(x, { t: "release", retry_ms: 30000 });
    }
    if (!x.isFeed) this.begin(x);
  }

  onEntries(f, x) {
    if (!x || x.barrier || x.isTold || x.result) return;
    x.queue.push(f.e);
    this.pump(x);
  }

  onOk(f, x) {
    if (!x || f.for === "ack") return;
    if (f.for === "nack") {
      x.barrier = false;
      x.queue = [];
    } else if (x.result) this.forget(x);
  }

  onErr(f, x) {
    if (f.fatal) this.trouble(`sluiced: ${f.code}: ${f.msg}`);
    else this.log(`sluiced: ${f.code}: ${f.msg}`);
    if (["bad_version", "bad_hello", "unauthorized"].includes(f.code)) this.giveUp(f.code, `${f.code}: ${f.msg}`);
    else if (x && (["not_owner", "unknown_lease"].includes(f.code) || (f.code === "bad_field" && x.result))) this.lose(x);
    else if (x?.barrier && f.code === "bad_field") this.end(x, { t: "release" }); // no answer to the nack will come
  }

  // ---- handlers

  begin(x, rows) {
    x.isBusy = true;
    x.given = new Set(rows?.map((r) => r[0]));
    this.posts.push({ t: "call", lease: x.name, line: x.line, rows });
  }

  /** The next call for a stream's entries. */
  pump(x) {
    while (!x.isBusy && x.queue.length && !x.last) {
      const rows = x.queue.shift().filter((r) => isAfter(r[0], x.finished));
      if (rows.length) return this.begin(x, rows);
      x.acked = undefined; // it came again after all was finished
      this.ack(x);
    }
    if (x.last && !x.isBusy && !x.result) this.end(x, x.last);
  }

  ack(x) {
    this.acks.delete(x);
    if (!this.isWelcome || x.finished === undefined || x.acked === x.finished) return;
    x.acked = x.finished;
    this.send({ t: "ack", lease: x.name, id: x.finished });
  }

  onMessage({ lease, kind, value }) {
    if (kind === "leave") return this.leave();
    const x = this.leases.get(lease);
    if (!x) return;
    if (kind === "p") {
      if (this.isWelcome && !x.isQuiet && this.sock.writableLength < PROGRESS_ROOM) this.send({ t: "progress", lease, note: value });
    } else if (kind === "a") {
      if (!this.isUnfinished(x, value)) return;
      x.finished = value;
      if (!x.isQuiet) this.acks.add(x);
    } else this.ended(x, value);
  }

  ended(x, { how, finish, ...more }) {
    x.isBusy = false;
    if (x.isQuiet) return this.forget(x);
    if (how === "stopped" || (x.isTold && (how !== "done" || x.isFeed))) return this.stopped(x);
    if (x.isFeed) return this.entriesEnded(x, how, finish, more);
    this.end(x, { t: how, reason: more.reason, dead: more.dead, retry_ms: more.retry_ms });
  }

  entriesEnded(x, how, finish, more) {
    this.ack(x);
    if (how === "release") x.last = { t: "release", retry_ms: more.retry_ms };
    else if (how === "fail") { // held against the first entry that is not finished
      const id = this.isUnfinished(x, more.id) ? more.id : [...x.given].find((i) => isAfter(i, x.finished));
      if (id !== undefined) {
        x.barrier = true;
        x.queue = [];
        this.send({ t: "nack", lease: x.name, ...more, id });
      }
    } else if (finish) x.last = { t: "done" };
    if (this.isLeaving && !x.last) x.last = { t: "release" };
    this.pump(x);
  }

  /** One of the entries of the call under way, and not finished yet. */
  isUnfinished(x, id) {
    return x.given.has(id) && isAfter(id, x.finished);
  }

  // ---- a lease's way to its end

  /** Asked to stop now; what has not by then ends the process. */
  stopWork(x, by) {
    by = Math.min(by, this.until ?? by);
    if (x.isTold) {
      x.stopBy = Math.min(x.stopBy, by);
      return;
    }
    x.isTold = true;
    x.stopBy = by;
    if (x.isBusy) this.posts.push({ t: "cancel", lease: x.name });
    else this.stopped(x);
  }

  stopped(x) {
    this.ack(x);
    this.end(x, x.last?.t === "release" ? x.last : { t: "revoked" });
  }

  /** Not ours any more, and nobody waits for an answer. */
  lose(x) {
    x.isQuiet = true;
    if (x.isBusy) this.stopWork(x, nowMs() + this.lead);
    else this.forget(x);
  }

  end(x, frame) {
    x.result = { ...frame, lease: x.name };
    if (this.isWelcome) this.tell(x);
  }

  tell(x) {
    this.send(x.result);
    if (x.result.t === "revoked") this.forget(x); // gets no answer
  }

  forget(x) {
    this.leases.delete(x.name);
    this.acks.delete(x);
    this.maybeLeave();
  }

  leave() {
    if (this.isLeaving) return;
    this.isLeaving = true;
    if (this.isWelcome) this.send({ t: "credits", n: 0 });
    for (const x of [...this.leases.values()]) {
      if (x.result) continue;
      if (this.options.onTerm === "release") {
        x.last = { t: "release" };
        this.stopWork(x, nowMs() + 5000);
      } else if (x.isFeed) {
        x.last = { t: "release" }; // after the call that is under way
        this.pump(x);
      }
    }
    this.maybeLeave();
  }

  maybeLeave() {
    if (!this.isLeaving || this.leases.size || !this.isWelcome || this.isOver) return;
    this.send({ t: "bye" });
    this.over();
  }
}

if (!isMainThread && workerData?.sluice) new Engine(workerData.sluice);
