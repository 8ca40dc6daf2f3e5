// A compute module on the official TypeScript SDK: a response, a stream, schemas.
const { ComputeModule } = require("@palantir/compute-module");

const definitions = {
  hello: {
    input: { type: "object", properties: { name: { type: "string" } }, required: ["name"] },
    output: { type: "string" },
  },
};
new ComputeModule({ logger: console, definitions })
  .register("hello", async (query) => "Hello, " + query.name)
  .register("raises", async () => {
    throw new TypeError("on purpose");
  })
  .register("throws", async () => Promise.reject("not an Error"))
  .register("unserializable", async () => {
    const value = {};
    value.itself = value;
    return value;
  })
  .registerStreaming("count", (query, writable) => {
    let n = 0;
    const next = () => {
      if (n === query.n) return writable.end();
      writable.write(JSON.stringify(n++));
      setTimeout(next, 20);
    };
    next();
  });
