// The Node client under the conformance suite: its handler does what `info` says (README.md).
import { openSync, writeSync } from "node:fs";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { Fail, Release, Worker } from "../../../etc/clients/node/sluice.mjs";

const journal = openSync(process.env.CONF_JOURNAL, "a");
const now = () => Number(process.hrtime.bigint()) / 1e6;
const note = (e, job, more) => writeSync(journal, `${JSON.stringify({ ms: now(), e, stream: job.stream, token: job.token, ...more })}\n`);
const block = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
const plain = (v) => (typeof v === "string" ? v : { bytes: v.toString("hex") });

async function act(does, job, more) {
  for (const id of does.ack ?? []) job.ack(id);
  for (let n = 0; n < (does.progress ?? 0); n++) job.progress(`note ${n}`);
  const end = now() + 1000 * ((does.sleep ?? 0) + (does.block ?? 0));
  for (let left = end - now(); left > 0; left = end - now()) {
    note("tick", job, more);
    if (does.block) block(Math.min(30, left));
    else await sleep(Math.min(30, left), null, { signal: job.signal }).catch((e) => {
      note("stopped", job, more);
      throw e;
    });
  }
  if ("raise" in does) throw new Error(does.raise);
  if ("fail" in does) throw new Fail(does.fail, { dead: does.dead, retryMs: does.retry_ms });
  if (does.release) throw new Release({ retryMs: does.retry_ms });
  if (does.done) job.finish();
  note("end", job, more);
}

async function work(job) {
  note("begin", job, { service: job.service, id: job.id, retry: job.retry, info: job.info, trace: job.trace });
  await act(typeof job.info === "object" && job.info ? job.info : {}, job);
}

async function workEntry(job, e) {
  note("entry", job, { entry: e.id, tries: e.tries, fields: e.fields.map((f) => f.map(plain)) });
  await act(JSON.parse(e.get("do") ?? "{}"), job, { entry: e.id });
}

async function workBatch(job, entries) {
  for (const e of entries) await workEntry(job, e);
}

const entries = process.env.CONF_ENTRIES;
const handler = { each: workEntry, batch: workBatch }[entries] ?? work;
try {
  await new Worker(null, handler, Number(process.env.CONF_CREDITS), { entries, onTerm: process.env.CONF_ON_TERM ?? "finish" }).run();
} catch (e) {
  console.error(`${e.code}: ${e.message}`);
  process.exit(1);
}
