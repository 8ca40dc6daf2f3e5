// A page's script that executes functions with the official clients; it is bundled for a browser.
import { __EXPERIMENTAL__NOT_SUPPORTED_YET__executeStreamingFunction as streaming } from "@osdk/api/unstable";
import { createClient } from "@osdk/client";
import { Queries } from "@osdk/foundry.functions";

const tracing = { attribution: "ri.a.b.c.d", traceParent: "00-1-1-01", traceState: "a=b" };

globalThis.execute = async (url, ontologyRid, name) => {
  const client = createClient(url, ontologyRid, async () => "app-token");
  const query = { apiName: name, type: "query", version: "0.0.0", isFixedVersion: true };
  const body = { ontology: ontologyRid, parameters: {} };
  const answer = await Queries.streamingExecute(client, name, body, { preview: true }, tracing);
  const streamed = [];
  for await (const value of client(streaming).executeStreamingFunction(query)) streamed.push(value);
  return [await client(query).executeFunction(), streamed, (await answer.text()).trim()];
};
