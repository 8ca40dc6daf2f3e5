/** @file A job as code: a command for curl, and programs in Python and in TypeScript. None of them holds a token. */

const EXECUTE = "/contour-backend-multiplexer/api/module-group-multiplexer/compute-modules/jobs/execute";

/** A string of JSON, with the colon after it if it is a key; or a number; or a word. */
const PART = /("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|-?\d[\d.eE+-]*|true|false|null/g;

/** Characters that are invisible, or that change the order in which others are shown. */
const HIDDEN = /[\u007f-\u00a0\u00ad\u061c\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\ufeff\ufff0-\uffff]/g;

const WORDS_OF_PYTHON = { true: "True", false: "False", null: "None" };

/** Return a text as a string of JSON, which is a string of Python and of TypeScript, too. */
function quoted(text) {
  const escape = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(text).replace(HIDDEN, escape);
}

/**
 * Return JSON in a language that has the same strings and brackets. Line breaks and the digits of numbers stay.
 * @param {string} json Valid JSON.
 * @param {Object} differences Functions for what is not the same there: `key`, `number` and `word`.
 */
function translated(json, { key = quoted, number = String, word = String } = {}) {
  return json.trim().replace(PART, (part, string, colon) => {
    if (string !== undefined) {
      const text = JSON.parse(string);
      return colon === undefined ? quoted(text) : key(text) + colon;
    }
    return /^[a-z]/.test(part) ? word(part) : number(part);
  });
}

/** Indent all lines but the first. A string of JSON has no line breaks, so they are all between values. */
function indented(text, spaces) {
  return text.replaceAll("\n", `\n${" ".repeat(spaces)}`);
}

function inShell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Return whether the functions API takes a query: it takes parameters by name. */
export function hasParameters(query) {
  return query.trim().startsWith("{");
}

/**
 * Return a job as a command for curl. It runs the job through a deployed app of the runtime. If there is none, it
 * submits the job to the runtime, and does not wait.
 * @param job Its `runtimeId`, `functionName`, `query` as valid JSON, and `binding`: a deployed app and a branch, or null.
 * @param {string} page The address of this page.
 */
export function curl({ runtimeId, functionName, query, binding }, page) {
  const at = binding === null
    ? new URL(`runtimes/${encodeURIComponent(runtimeId)}/jobs`, page)
    : new URL(EXECUTE, page);
  const target = binding === null ? "" : `"deployedAppRid": ${quoted(binding.deployed_app_rid)},\n  `
    + `"deployedAppBranch": ${quoted(binding.branch)},\n  `;
  const body = `{\n  ${target}"queryType": ${quoted(functionName)},\n  "query": ${indented(translated(query), 2)}\n}`;
  return [
    "# Set the bearer token first: export TOKEN=...",
    ...(binding === null ? ["# The runtime has no active deployed app, so this queues the job and does not wait."] : []),
    ...(at.protocol === "https:" ? ["# ca.pem is the certificate that this page can save."] : []),
    `curl -sS ${at.protocol === "https:" ? "--cacert ca.pem " : ""}-H "Authorization: Bearer $TOKEN" \\`,
    "  -H 'Content-Type: application/json' \\",
    `  --data-binary ${inShell(body)} \\`,
    `  ${inShell(at.href)}`,
    "",
  ].join("\n");
}

/**
 * Return a job as a program that uses the platform SDK for Python.
 * @param job As for curl; its query has parameters.
 * @param {string} url The address of the emulator, with HTTPS if it has one.
 */
export function python({ functionName, query }, url) {
  const { protocol, host } = new URL(url);
  const secure = protocol === "https:";
  const parameters = translated(query, { word: (word) => WORDS_OF_PYTHON[word] });
  return [
    "# pip install foundry-platform-sdk",
    "# Set the bearer token first: export FOUNDRY_TOKEN=...",
    ...(secure ? ["# Save ca.pem with this page, and set: export REQUESTS_CA_BUNDLE=ca.pem"] : []),
    "import os",
    "",
    `from foundry_sdk import ${secure ? "" : "Config, "}UserTokenAuth`,
    "from foundry_sdk.v2 import FoundryClient",
    "",
    "client = FoundryClient(",
    '    auth=UserTokenAuth(os.environ["FOUNDRY_TOKEN"]),',
    `    hostname=${quoted(host)},`,
    ...(secure ? [] : ['    config=Config(scheme="http"),']),
    ")",
    "answer = client.functions.Query.execute(",
    `    ${quoted(functionName)},`,
    `    parameters=${indented(parameters, 4)},`,
    "    preview=True,",
    ")",
    "print(answer.value)",
    "",
  ].join("\n");
}

/** Return a job as a program that uses the OSDK for TypeScript; see python. */
export function typescript({ functionName, query }, url) {
  let rounded = false;
  const parameters = translated(query, {
    // In an object of JavaScript, this name alone would set the prototype.
    key: (text) => (text === "__proto__" ? '["__proto__"]' : quoted(text)),
    number: (text) => {
      // A large number that JavaScript writes with the same digits may be a double, for which the API takes no string.
      if (!/^-?\d+$/.test(text) || Number.isSafeInteger(Number(text)) || String(Number(text)) === text) {
        return text;
      }
      rounded = true;
      return `"${text}"`;
    },
  });
  const { origin, protocol } = new URL(url);
  return [
    "// npm install @osdk/client @osdk/foundry.functions",
    "// Set the bearer token first: export FOUNDRY_TOKEN=...",
    ...(protocol === "https:" ? ["// Save ca.pem with this page, and set: export NODE_EXTRA_CA_CERTS=ca.pem"] : []),
    'import { createPlatformClient } from "@osdk/client";',
    'import { Queries } from "@osdk/foundry.functions";',
    "",
    `const client = createPlatformClient(${quoted(origin)}, async () => process.env.FOUNDRY_TOKEN ?? "");`,
    ...(rounded ? ["// Numbers that JavaScript would round are strings, as a long is in Foundry's API."] : []),
    "const answer = await Queries.execute(",
    "  client,",
    `  ${quoted(functionName)},`,
    `  { parameters: ${indented(parameters, 2)} },`,
    "  { preview: true },",
    ");",
    "console.log(answer.value);",
    "",
  ].join("\n");
}
