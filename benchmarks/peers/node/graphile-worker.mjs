// graphile-worker with a local queue of 500 and batched completion.
import { ledger, order, require, send, serve } from "./recorder.mjs";

const { makeWorkerUtils, run } = require("graphile-worker");
const { Logger } = require("@graphile/logger");
const logger = new Logger(() => () => {});
const preset = { worker: { connectionString: order.url, concurrentJobs: order.slots, maxPoolSize: 10, logger,
  completeJobBatchDelay: 0, failJobBatchDelay: 0, localQueue: { size: 500 } } };

async function setup() {
  const utils = await makeWorkerUtils({ connectionString: order.url, logger });
  await utils.migrate();
  await utils.release();
  process.stdout.write("{}\n");
}

async function defer() {
  const utils = await makeWorkerUtils({ preset });
  await send(
    (number, content) => utils.addJob("job", { number, content }),
    (part) => utils.addJobs(part.map(([number, content]) => ({ identifier: "job", payload: { number, content } }))),
  );
}

async function work() {
  const handle = ledger();
  await run({ preset, noHandleSignals: true, taskList: { job: ({ number, content }) => handle(number, content) } });
}

serve(["graphile-worker", "pg"], { setup, defer, work });
