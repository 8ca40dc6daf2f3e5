// Foundry's client of the multiplexer: conjure-lite with the arguments of osdk-ts's generated endpoints; run by the tests.
import { conjureFetch } from "conjure-lite";

const context = {
  baseUrl: process.env.URL,
  servicePath: "/contour-backend-multiplexer/api",
  tokenProvider: async () => "app-token",
};
const call = (method, path, body, ...rest) => conjureFetch(context, path, method, body, ...rest);
const failure = (promise) => promise.then(
  () => null,
  ({ status, body }) => ({ status, errorName: body.errorName }),
);
const inAnHour = new Date(Date.now() + 3_600_000).toISOString();

const found = {
  configuration: await call("GET", "/deployed-apps/ri.one"),
  configurationV2: await call("GET", "/deployed-apps/ri.one/v2"),
  devMode: [
    await call("PUT", "/deployed-apps/ri.one/master/dev-mode", { automaticUpgradesUntil: inAnHour }),
    await call("PUT", "/deployed-apps/ri.one/master/dev-mode", {}),
  ],
  badDevMode: await failure(call("PUT", "/deployed-apps/ri.one/master/dev-mode", { automaticUpgradesUntil: "soon" })),
  noneV2: await failure(call("GET", "/deployed-apps/ri.none/v2")),
};
const none = await call("GET", "/deployed-apps/ri.none");
found.none = { value: none ?? null, defined: none !== undefined };

const status = await call("GET", "/deployed-apps/ri.one/master/status");
found.submitted = await call("POST", "/module-group-multiplexer/jobs", {
  moduleGroupName: status.currentReplicaSet.moduleGroupName,
  queryType: "add",
  query: { a: 1, b: 2 },
  resourceManagementAttributionRid: "ri.compass.main.folder.x",
  extraResourceManagementAttributionRids: [],
  resourceManagementMetadata: [],
});
const { jobHandle } = found.submitted;
do {
  found.ended = (await call("PUT", "/module-group-multiplexer/jobs/status/v2", { jobHandle })).type;
} while (found.ended === "queued" || found.ended === "inProgress");
const result = await call(
  "PUT", "/module-group-multiplexer/jobs/result/v2", { jobHandle }, undefined, undefined, "application/octet-stream",
);
found.result = await result.text();
console.log(JSON.stringify(found));
