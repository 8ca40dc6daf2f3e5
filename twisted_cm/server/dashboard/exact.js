/** @file JSON without loss: a number that JavaScript would round stays as it was written, if `JSON.rawJSON` exists. */

/** Parse JSON; numbers that JavaScript would round keep their text. */
export function parseExact(text) {
  return JSON.parse(text, (key, value, context) => {
    const source = context?.source;
    const lossy = typeof value === "number" && source !== undefined && String(value) !== source;
    return lossy && JSON.rawJSON ? JSON.rawJSON(source) : value;
  });
}

/** Return the number that was typed, without rounding it. */
export function exactNumber(text) {
  const number = Number(text);
  return String(number) === text || !JSON.rawJSON || !/^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/.test(text)
    ? number
    : JSON.rawJSON(text);
}

export function pretty(value) {
  return JSON.stringify(value, null, 2);
}
