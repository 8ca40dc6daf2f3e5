/** @file Builds the page. Content of jobs becomes text nodes, never markup. */

const SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      node.addEventListener(name, value);
    } else if (value === true) {
      node.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(name, value);
    }
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Make an element. An attribute that is a function handles the event of that name; a child that is a string is text. */
export function el(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

/** Set a node's text if it differs. An unchanged node keeps the selection and is not read aloud again. */
export function setText(node, text) {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}

/**
 * Make the children of a list match `keys`, in that order. A child that is already there stays the same node.
 * @param {Map} kept What `make(key)` returned for each key; its `node` is the child.
 */
export function arrange(parent, keys, kept, make) {
  const wanted = new Set(keys);
  for (const [key, { node }] of kept) {
    if (!wanted.has(key)) {
      node.remove();
      kept.delete(key);
    }
  }
  let next = parent.firstElementChild;
  for (const key of keys) {
    if (!kept.has(key)) {
      kept.set(key, make(key));
    }
    const { node } = kept.get(key);
    if (node === next) {
      next = node.nextElementSibling;
    } else {
      parent.insertBefore(node, next);
    }
  }
}

/** Return what people see as the status of a job: its status, or that its function raised. */
export function shownStatus(job) {
  return job.raised ? "raised" : job.status;
}

/** Announce a text to screen readers. */
export function announce(text) {
  byId("announcer").textContent = text;
}

export function badge(status) {
  return el("span", { class: `badge ${status}` }, status);
}

const TIME = new Intl.DateTimeFormat([], {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23",
});
const DATE = new Intl.DateTimeFormat([], { dateStyle: "medium" });

/** Format milliseconds since the epoch as a time, with the date if that is not today. */
export function formatTime(moment) {
  const date = new Date(moment);
  const time = TIME.format(date);
  return date.toDateString() === new Date().toDateString() ? time : `${DATE.format(date)}, ${time}`;
}

export function formatDuration(milliseconds) {
  if (milliseconds === null) {
    return "–";
  }
  if (milliseconds < 1000) {
    return `${Math.max(0, Math.round(milliseconds))} ms`;
  }
  const seconds = milliseconds / 1000;
  if (seconds < 60) {
    return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  }
  if (seconds < 3600) {
    return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  }
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** Format an age in whole seconds, so that it changes once a second. */
export function formatAge(milliseconds) {
  return milliseconds < 60_000 ? `${Math.max(0, Math.round(milliseconds / 1000))} s` : formatDuration(milliseconds);
}

export function count(number, what) {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

export function formatBytes(size) {
  if (size === null) {
    return "–";
  }
  if (size < 1024) {
    return `${size} B`;
  }
  return size < 1024 ** 2 ? `${(size / 1024).toFixed(1)} KiB` : `${(size / 1024 ** 2).toFixed(1)} MiB`;
}

/** Offer bytes or text as a download. The type keeps the browser from showing it as a page. */
export function download(content, name) {
  const url = URL.createObjectURL(new Blob([content], { type: "application/octet-stream" }));
  el("a", { href: url, download: name.replace(/[^\w.-]/g, "_") }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * Copy a node's text to the clipboard.
 * @returns Whether it was copied. If it was not, the text is selected.
 */
export async function copy(node) {
  try {
    // Browsers have a clipboard only where the page came over HTTPS or from this machine.
    await navigator.clipboard.writeText(node.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(node);
    return document.execCommand("copy");
  }
}
