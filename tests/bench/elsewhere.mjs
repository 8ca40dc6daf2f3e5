// Servers on Node's own HTTP server that the emulator is measured beside: node elsewhere.mjs constant|timer
//
// "constant" answers the requests of the floor: /constant/SIZE/ with so many bytes, or with 204 for size 0.
//
// "timer" is a small emulator in which nobody is woken by an event. Each parked request looks every 10 ms whether there
// is something for it. It keeps one queue, and it checks no tokens and no queries. So its jobs cost what the timer and
// the HTTP server cost, and less than those of a complete emulator.

import { createServer } from "node:http";
import { setTimeout as after } from "node:timers/promises";

const EVERY = 10; // milliseconds
const PARKED = 30_000; // milliseconds that a poll waits for a job

const answers = new Map();

function constant(request, body, answer) {
  const size = Number(request.url.split("/")[2]);
  if (!answers.has(size)) answers.set(size, Buffer.alloc(size, "x"));
  answer(size ? 200 : 204, answers.get(size));
}

const queue = [];
const jobs = new Map();
let number = 0;

async function timer(request, body, answer) {
  if (request.url.endsWith("/jobs/execute")) {
    const job = { id: `job-${++number}`, submitted: JSON.parse(body), result: null };
    jobs.set(job.id, job);
    queue.push(job);
    while (job.result === null) await after(EVERY);
    jobs.delete(job.id);
    answer(200, job.result);
  } else if (request.url.endsWith("/job")) {
    const until = Date.now() + PARKED;
    let job;
    // A poll whose connection was closed takes nothing.
    while (!request.socket.destroyed && (job = queue.shift()) === undefined && Date.now() < until) await after(EVERY);
    if (job === undefined) return answer(204);
    const { queryType, query } = job.submitted;
    const envelope = { type: "computeModuleJobV1", computeModuleJobV1: { jobId: job.id, queryType, query } };
    answer(200, Buffer.from(JSON.stringify(envelope)));
  } else {
    const job = jobs.get(request.url.slice(request.url.lastIndexOf("/") + 1));
    if (job) job.result = body;
    answer(job ? 204 : 404);
  }
}

const handle = { constant, timer }[process.argv[2]];

const server = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    handle(request, Buffer.concat(parts), (status, body = Buffer.alloc(0)) => {
      const headers = status === 204 ? {} : { "Content-Type": "application/octet-stream", "Content-Length": body.length };
      response.writeHead(status, headers);
      response.end(body);
    });
  });
});
// Connections are kept while other servers are measured.
server.keepAliveTimeout = 0;
server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => console.log(server.address().port));
