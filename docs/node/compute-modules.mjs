import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { createInterface } from "node:readline";

export async function start(deployedAppRid, ...command) {
  const directory = await mkdtemp(`${tmpdir()}/compute-modules-`);
  const env = { ...process.env, TWISTED_CM_STATE_DIR: directory, TWISTED_CM_TOKEN: "test_token_admin" };
  const cm = (stdout, ...words) => spawn("twisted-cm", words, { env, stdio: ["pipe", stdout, 2] });
  const file = `${directory}/ports.json`;
  const emulator = cm("pipe", "serve", "--stop-with-stdin", "--port", "0", "--tls-port", "0", "--port-file", file);
  for await (const line of createInterface({ input: emulator.stdout })) if (line.includes("Ctrl-C stops.")) break;
  const url = (env.TWISTED_CM_URL = JSON.parse(await readFile(file)).http);
  const module = cm(2, "exec", "--runtime", "module", "--deployed-app", deployedAppRid, "--", ...command);
  const end = async (each) => each.kill() && (await once(each, "exit"));
  const stop = () => end(module).then(() => end(emulator)).then(() => rm(directory, { recursive: true }));
  const ready = () => once(cm(2, "wait", "module", "--timeout", "30"), "exit").then(([status]) => {
    if (status !== 0) throw new Error("The module takes no jobs.");
  });
  const send = async (path, body) => {
    const headers = { Authorization: "Bearer test_token_admin", "Content-Type": "application/json" };
    const answer = await fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) });
    return answer.ok ? answer : Promise.reject(new Error((await answer.json()).error_description));
  };
  const contour = "/contour-backend-multiplexer/api/module-group-multiplexer/compute-modules/jobs/execute";
  const execute = (queryType, query) => send(contour, { deployedAppRid, queryType, query });
  await ready().catch((error) => stop().then(() => Promise.reject(error)));
  return { url, send, execute, stop, reset: () => send("/_emulate/foundry/compute-modules/reset").then(ready) };
}
