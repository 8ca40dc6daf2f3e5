// What docs/testing-with-node.rst says of the helper: a reset keeps the module and loses its schemas, and a module that
// takes no jobs is given up.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { start } from "./compute-modules.mjs";
import { start as startImpatiently } from "./impatient.mjs";

const rid = "ri.foundry.main.deployed-app.greeter";
let modules;

before(async () => {
  modules = await start(rid, "node", "module.js");
});
after(() => modules.stop());

const reported = async () => {
  const answer = await fetch(`${modules.url}/_emulate/foundry/compute-modules/runtimes`, {
    headers: { Authorization: "Bearer test_token_admin" },
  });
  const [runtime] = await answer.json();
  return runtime.last_schema_post_at;
};

test("a reset", async () => {
  assert.equal(await (await modules.execute("count", {})).json(), 1);
  while ((await reported()) === null);
  await modules.reset();
  assert.equal(await (await modules.execute("count", {})).json(), 2);
  assert.equal(await reported(), null);
});

test("a module that takes no jobs", async () => {
  await assert.rejects(startImpatiently(rid, "false"), /takes no jobs/);
});
