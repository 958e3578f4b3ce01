// BullMQ on ioredis, finished jobs removed.
import { ledger, order, require, send, serve } from "./recorder.mjs";

const { Queue, Worker } = require("bullmq");
const { Redis } = require("ioredis");
const connection = () => new Redis(order.url, { maxRetriesPerRequest: null });

async function defer() {
  const queue = new Queue("default", { connection: connection(), defaultJobOptions: { removeOnComplete: true } });
  await queue.waitUntilReady();
  await send(
    (number, content) => queue.add("job", { number, content }),
    (part) => queue.addBulk(part.map(([number, content]) => ({ name: "job", data: { number, content } }))),
  );
}

async function work() {
  const run = ledger();
  new Worker("default", (job) => run(job.data.number, job.data.content),
    { connection: connection(), concurrency: order.slots, removeOnComplete: { count: 0 } });
}

serve(["bullmq", "ioredis"], { defer, work });
