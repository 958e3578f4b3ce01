// What recorder.py is to programs in Python: takes an order, keeps the same ledger, answers the same JSON.
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";

export const order = { jobs: 0, first: 0, how: "one", kind: "noop", slots: 100, pace: 0, warm: false, server: 0,
  patience: 60, options: {}, ...JSON.parse(process.argv[2]) };
export const require = createRequire(process.env.BENCH_NODE + "/");
const FLIGHT = 100, BULK = 1000, SETTLING = 300, TICK = 100;

export const say = (answer) => process.stdout.write(JSON.stringify(answer) + "\n", () => process.exit(0));

function cpuOf(pid) {
  if (!pid) return 0;
  const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, "ascii").split(" ").filter(Boolean));
  let ticks = 0;
  for (const one of [String(pid), ...children]) {
    try {
      const fields = readFileSync(`/proc/${one}/stat`, "ascii").split(") ").pop().split(" ").map(Number);
      ticks += fields[11] + fields[12] + (one === String(pid) ? fields[13] + fields[14] : 0);
    } catch { /* it ended meanwhile */ }
  }
  return ticks / TICK;
}

function meter() {
  const [cpu, server, began] = [process.cpuUsage(), cpuOf(order.server), performance.now()];
  return () => {
    const used = process.cpuUsage(cpu);
    return { seconds: (performance.now() - began) / 1e3, cpu: (used.user + used.system) / 1e6,
      server_cpu: cpuOf(order.server) - server };
  };
}

const monotonic = () => Number(process.hrtime.bigint()) / 1e9;
const content = () => (order.kind === "stamp" ? String(monotonic()) : order.kind === "payload" ? "x".repeat(10240) : "");

function* calls() {
  for (let number = order.first; number < order.first + order.jobs; number++) yield [number, content()];
}

export async function send(one, bulk) {
  if (order.warm) await one(-1, content());
  const all = calls(), read = meter();
  if (order.how === "one") for (const call of all) await one(...call);
  else if (order.how === "flight") {
    await Promise.all(Array.from({ length: FLIGHT }, async () => { for (const call of all) await one(...call); }));
  } else if (order.how === "paced") {
    const began = monotonic(), underWay = [];
    for (let number = 0; number < order.jobs; number++) {
      const ahead = began + number / order.pace - monotonic();
      if (ahead > 0) await new Promise((resolve) => setTimeout(resolve, ahead * 1e3));
      underWay.push(one(order.first + number, content()));
    }
    await Promise.all(underWay);
  } else {
    let part = [];
    for (const call of all) if (part.push(call) === BULK) { await bulk(part); part = []; }
    if (part.length) await bulk(part);
  }
  say(read());
}

export function ledger() {
  const counts = new Map(), latencies = [];
  let runs = 0, read = meter(), figures = null;
  const end = (complete) => setTimeout(() => {
    let lost = 0, duplicated = 0, unexplained = 0;
    for (let number = order.first; number < order.first + order.jobs; number++) if (!counts.has(number)) lost++;
    for (const [number, count] of counts) {
      duplicated += count - 1;
      if (number < order.first || number >= order.first + order.jobs) unexplained++;
    }
    say({ ...(figures ?? read()), lost, duplicated, unexplained, complete, latencies,
      rss: process.memoryUsage.rss() / 2 ** 20 });
  }, SETTLING);
  setTimeout(() => end(false), order.patience * 1e3);
  const ran = (number, stamp) => {
    if (stamp && order.kind === "stamp") latencies.push(monotonic() - Number(stamp));
    counts.set(number, (counts.get(number) ?? 0) + 1);
    if (++runs === 1) { read = meter(); process.stdout.write("first\n"); }
    if (runs === order.jobs) { figures = read(); end(true); }
  };
  return async (number, stamp) => {
    if (order.kind === "nap") await new Promise((resolve) => setTimeout(resolve, 10));
    else if (order.kind === "cpu") { const until = performance.now() + 1; while (performance.now() < until); }
    ran(number, stamp);
  };
}

export function serve(packages, roles) {
  if (order.role === "versions") {
    return say({ versions: Object.fromEntries(packages.map((name) =>
      [name, JSON.parse(readFileSync(`${process.env.BENCH_NODE}/node_modules/${name}/package.json`, "utf8")).version])) });
  }
  if (!roles[order.role]) return say({ missing: `no ${order.role}` });
  roles[order.role]().catch((error) => { console.error(error); process.exit(1); });
}
