// JSON without loss: a number that JavaScript cannot hold stays as it was written, where the browser can do that.

export function parseExact(text) {
  return JSON.parse(text, (key, value, context) => {
    const source = context?.source;
    const lossy = typeof value === "number" && source !== undefined && String(value) !== source;
    return lossy && JSON.rawJSON ? JSON.rawJSON(source) : value;
  });
}

// A number as it was typed.
export function exactNumber(text) {
  const number = Number(text);
  return String(number) === text || !JSON.rawJSON || !/^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/.test(text)
    ? number
    : JSON.rawJSON(text);
}

export function pretty(value) {
  return JSON.stringify(value, null, 2);
}
