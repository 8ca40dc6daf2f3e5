// Applications on the official clients for Node, which call what the tests tell them to call.
//
// Each line of the input is a JSON array of calls, which are made at the same time; the line that answers it holds what
// each call returned or raised. A call is one of:
//
// - {execute: query, params}: client(query).executeFunction(params),
// - {stream: query, params, touch}: the streaming form of it, as an array,
// - {metadata: query}: client.fetchMetadata(query),
// - {functions: name, args, touch}: a function of @osdk/foundry.functions; a stream as an array of its lines.
//
// "touch" names a file to create once the first part of a stream has arrived.
// In params and args, {"$set": […]} stands for a Set, and {"$date": "…"} for a Date.
import { writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { __EXPERIMENTAL__NOT_SUPPORTED_YET__executeStreamingFunction as streaming } from "@osdk/api/unstable";
import { createClient } from "@osdk/client";
import { Queries } from "@osdk/foundry.functions";

const { FOUNDRY_URL: url, FOUNDRY_TOKEN: token, ONTOLOGY: ontology } = process.env;
const ontologyRid = ontology ?? "ri.ontology.main.ontology.local";

// A query of a generated SDK. "name@version" is one whose SDK was generated for that version only.
function generated(name) {
  const [apiName, version] = name.split("@");
  return {
    apiName,
    type: "query",
    version: version ?? "0.0.0",
    isFixedVersion: version !== undefined,
    osdkMetadata: { extraUserAgent: "typescript-sdk/0.0.0 typescript-sdk-generator/2.22.0" },
  };
}

function nodeValue(_, value) {
  if (value?.$set) return new Set(value.$set);
  return value?.$date ? new Date(value.$date) : value;
}

async function collect(parts, touch) {
  const found = [];
  for await (const part of parts) {
    found.push(part);
    if (touch) writeFileSync(touch, "");
  }
  return found;
}

async function perform(call) {
  const client = createClient(url, ontologyRid, async () => token);
  if (call.execute) return client(generated(call.execute)).executeFunction(call.params);
  if (call.metadata) return client.fetchMetadata(generated(call.metadata));
  if (call.stream) {
    return collect(client(streaming).executeStreamingFunction(generated(call.stream), call.params), call.touch);
  }
  const result = await Queries[call.functions](client, ...call.args);
  if (!(result instanceof Response)) return result;
  const lines = await collect(result.body.pipeThrough(new TextDecoderStream()), call.touch);
  return lines.join("").trimEnd().split("\n").map((line) => JSON.parse(line));
}

async function outcome(call) {
  try {
    return { returned: (await perform(call)) ?? null };
  } catch (error) {
    const { message, errorName, errorCode, errorDescription, statusCode, parameters } = error;
    return { raised: error.constructor.name, message, errorName, errorCode, errorDescription, statusCode, parameters };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await Promise.all(JSON.parse(line, nodeValue).map(outcome))));
}
