/** @file Function schemas, in Foundry's own form or as JSON Schemas: signatures, and schemas of queries. */

/** The bits of each type of whole number. */
const WHOLE = { byte: 8, short: 16, integer: 32 };

export function isFoundryForm(payload) {
  return "inputs" in payload || "output" in payload;
}

/** Return a function as one line: its name, its inputs and its output. */
export function signature(name, payload) {
  if (!isFoundryForm(payload)) {
    return `${name}(${payload.properties ? describeFields(payload) : describe(payload)})`;
  }
  const inputs = Array.isArray(payload.inputs)
    ? payload.inputs.map((input) => isRequired(input)
      ? `${input?.name}: ${describeType(input?.dataType)}`
      : `${input.name}?: ${describeType(input.dataType).replace(/\?$/, "")}`)
    : ["?"];
  const output = payload.output?.single?.dataType;
  return `${name}(${inputs.join(", ")})${output ? ` → ${describeType(output)}` : ""}`;
}

function isRequired(input) {
  return input?.required !== false && input?.dataType?.type !== "optionalType";
}

function entries(fields) {
  return Object.entries(fields ?? {});
}

function describeType(dataType) {
  const type = dataType?.type;
  const content = dataType?.[type];
  switch (type) {
    case "list":
    case "set":
      return `${type}<${describeType(content?.elementsType)}>`;
    case "map":
      return `map<${describeType(content?.keysType)}, ${describeType(content?.valuesType)}>`;
    case "optionalType":
      return `${describeType(content?.wrappedType)}?`;
    case "anonymousCustomType":
      return `{${entries(content?.fields).map(([key, value]) => `${key}: ${describeType(value)}`).join(", ")}}`;
    default:
      return type ?? "?";
  }
}

function describeFields(schema) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties)
    .map(([key, value]) => `${key}${required.has(key) ? "" : "?"}: ${describe(value)}`).join(", ");
}

function describe(schema) {
  if (typeof schema?.$ref === "string") {
    return schema.$ref.split("/").at(-1);
  }
  if (schema?.type === "object" && schema.properties) {
    return `{${describeFields(schema)}}`;
  }
  if (Array.isArray(schema?.enum)) {
    return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  }
  if (schema?.type === "array") {
    return `${describe(schema.items)}[]`;
  }
  return [schema?.type ?? "any"].flat().join(" | ");
}

/** Return the JSON Schema of a query, or null if the function's schema does not describe its inputs. */
export function querySchema(payload) {
  if (!isFoundryForm(payload)) {
    return payload;
  }
  if (!Array.isArray(payload.inputs) || payload.inputs.length === 0) {
    return null;
  }
  return object(payload.inputs.map((input) => [input.name, input.dataType, isRequired(input)]));
}

function object(fields) {
  return {
    type: "object",
    properties: Object.fromEntries(fields.map(([name, dataType]) => [name, translate(dataType)])),
    required: fields.filter(([, , required]) => required).map(([name]) => name),
  };
}

function translate(dataType) {
  const type = dataType?.type;
  const content = dataType?.[type];
  if (type in WHOLE) {
    const most = 2 ** (WHOLE[type] - 1);
    return { type: "integer", minimum: -most, maximum: most - 1 };
  }
  switch (type) {
    case "boolean":
    case "string":
      return { type };
    case "long":
      return { type: "integer" };
    case "float":
    case "double":
      return { type: "number" };
    case "decimal":
      return { type: "string", description: "A decimal number" };
    case "binary":
      return { type: "string", description: "Base64" };
    case "date":
      return { type: "string", format: "date" };
    case "timestamp":
      return { type: "string", description: "Such as 2024-01-31T12:00:00Z" };
    case "list":
    case "set":
      return { type: "array", items: translate(content?.elementsType) };
    case "map":
      return { type: "object", additionalProperties: translate(content?.valuesType) };
    case "optionalType":
      return translate(content?.wrappedType);
    case "anonymousCustomType":
      return object(entries(content?.fields).map(([key, each]) => [key, each, each?.type !== "optionalType"]));
    default:
      return {};
  }
}
