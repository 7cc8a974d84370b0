// A worker whose handler does nothing, for the bench beside this.
import process from "node:process";
import { Worker } from "../../../etc/clients/node/sluice.mjs";

await new Worker(null, () => {}, Number(process.env.BENCH_CREDITS), { entries: process.env.BENCH_ENTRIES }).run();
