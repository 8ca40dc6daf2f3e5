/** @file Requests to the emulator, and the stream of its events. */

const BASE = new URL("./", document.baseURI);
const CONTOUR = "/contour-backend-multiplexer/api/module-group-multiplexer";

/** Milliseconds of silence after which the stream of events is given up; the emulator sends a line every 15 seconds. */
const SILENCE = 40_000;
/** The longest wait before the page connects again, in milliseconds. */
const LONGEST_WAIT = 15_000;

/** An error answer; its status is 0 if the emulator cannot be reached. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The emulator's routes as methods. */
export class Api {
  /** @param {function(ApiError)} unauthorized Called when the emulator refuses the token. */
  constructor(unauthorized) {
    this.token = null;
    this.skew = 0;
    this.unauthorized = unauthorized;
  }

  /** Return the emulator's time in milliseconds since the epoch, estimated from the dates of its answers. */
  now() {
    return Date.now() + this.skew;
  }

  async request(method, path, body, signal) {
    const headers = { Authorization: `Bearer ${this.token}` };
    if (body !== undefined) {
      headers["Content-Type"] = "application/json";
    }
    let response;
    try {
      response = await fetch(new URL(path, BASE), { method, headers, body, signal, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") {
        throw error;
      }
      throw new ApiError(0, "The emulator cannot be reached.");
    }
    const skew = Date.parse(response.headers.get("Date")) - Date.now();
    // The header has whole seconds, so a small difference means nothing.
    this.skew = Math.abs(skew) < 2000 || Number.isNaN(skew) ? 0 : skew;
    if (!response.ok) {
      const answer = await response.json().catch(() => ({}));
      const message = answer.error_description ?? `The emulator answered ${response.status}.`;
      const error = new ApiError(response.status, message);
      if (response.status === 401) {
        this.unauthorized(error);
      }
      throw error;
    }
    return response;
  }

  async get(path) {
    return (await this.request("GET", path)).json();
  }

  jobs(filter, before, limit) {
    const query = new URLSearchParams({ limit });
    for (const [name, value] of Object.entries({ ...filter, before })) {
      if (value) {
        query.set(name, value);
      }
    }
    return this.get(`jobs?${query}`);
  }

  /** Return a job's record as text, because parsing would round long numbers. */
  async job(runtimeId, jobId) {
    return (await this.request("GET", `${runtimePath(runtimeId)}/jobs/${encodeURIComponent(jobId)}`)).text();
  }

  runtime(runtimeId) {
    return this.get(runtimePath(runtimeId));
  }

  /** Submit a job. `query` is JSON text and is sent unchanged. */
  async submit(runtimeId, functionName, query) {
    const body = `{"queryType": ${JSON.stringify(functionName)}, "query": ${query}}`;
    return (await this.request("POST", `${runtimePath(runtimeId)}/jobs`, body)).json();
  }

  cancel(jobId) {
    return this.request("DELETE", `${CONTOUR}/jobs/${encodeURIComponent(jobId)}`);
  }
}

function runtimePath(runtimeId) {
  return `runtimes/${encodeURIComponent(runtimeId)}`;
}

/** Follows the emulator's events. When they end it connects again, after a wait that doubles with each failure. */
export class EventStream {
  /**
   * @param on Callbacks: `connected()`, `event(kind, data)`, `silence()` when the emulator says that there were no
   * events for a while, and `waiting(milliseconds)` before it connects again.
   */
  constructor(api, on) {
    this.api = api;
    this.on = on;
    this.controller = null;
  }

  start() {
    this.stop();
    this.controller = new AbortController();
    this.#follow(this.controller.signal);
  }

  stop() {
    this.controller?.abort();
    this.controller = null;
  }

  async #follow(stopped) {
    let failures = 0;
    while (!stopped.aborted) {
      const began = Date.now();
      try {
        await this.#connect(stopped);
      } catch (error) {
        if (error.status === 401) {
          return;
        }
      }
      if (stopped.aborted) {
        return;
      }
      failures = Date.now() - began > 5000 ? 0 : failures + 1;
      // A random part keeps many dashboards from connecting at the same moment.
      const wait = Math.min(LONGEST_WAIT, 250 * 2 ** failures) * (0.75 + Math.random() / 2);
      this.on.waiting(wait);
      await pause(wait, stopped);
    }
  }

  async #connect(stopped) {
    const silent = new AbortController();
    const abort = () => silent.abort();
    stopped.addEventListener("abort", abort);
    let timer = setTimeout(abort, SILENCE);
    try {
      const response = await this.api.request("GET", "events", undefined, silent.signal);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      this.on.connected();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) {
          return;
        }
        clearTimeout(timer);
        timer = setTimeout(abort, SILENCE);
        const events = (rest + value).split("\n\n");
        rest = events.pop();
        for (const each of events) {
          this.#handle(each);
        }
      }
    } finally {
      clearTimeout(timer);
      stopped.removeEventListener("abort", abort);
      silent.abort();
    }
  }

  #handle(text) {
    const fields = new Map(text.split("\n").map((line) => {
      const colon = line.indexOf(": ");
      return [line.slice(0, colon), line.slice(colon + 2)];
    }));
    if (fields.has("event")) {
      this.on.event(fields.get("event"), JSON.parse(fields.get("data")));
    } else {
      this.on.silence();
    }
  }
}

function pause(milliseconds, stopped) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    stopped.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
