/** @file One job's story: its steps, its query and its result. */

import { announce, badge, byId, download, el, formatBytes, formatDuration, formatTime, setText, shownStatus } from "./dom.js";
import { parseExact, pretty } from "./exact.js";

/** The most characters of a query or a result that are shown. */
const MOST_SHOWN = 100_000;

/** The most bytes of a binary result that are shown. */
const MOST_BYTES = 512;

export class Story {
  constructor(api) {
    this.api = api;
    this.dialog = byId("story");
    this.job = null;
    this.content = null;
    this.loading = false;
    this.outdated = false;
    this.#build();
  }

  #build() {
    const button = (text, click) => el("button", { type: "button", click }, text);
    this.title = el("h2", { id: "story-title" });
    this.names = el("p", { class: "quiet" });
    this.cancelButton = button("Cancel the job", () => this.#cancel());
    this.error = el("p", { class: "alert", role: "alert" });
    this.timeline = el("ol", { class: "timeline" });
    this.query = el("pre", { tabindex: "0", "aria-label": "Query" });
    this.result = el("pre", { tabindex: "0", "aria-label": "Result" });
    this.resultNote = el("p", { class: "quiet" });
    this.outputTitle = el("h3", {}, "Output of the module");
    this.output = el("pre", { tabindex: "0", "aria-label": "Output of the module" });
    this.downloadResult = button("Download the result", () => download(this.content, `${this.job.job_id}-result`));
    this.dialog.append(
      el("header", {}, this.title, button("Close", () => this.dialog.close())),
      this.names,
      el("p", { class: "buttons" }, this.cancelButton),
      this.error,
      el("h3", {}, "Timeline"), this.timeline,
      el("h3", {}, "Query"), this.query,
      el("p", { class: "buttons" },
        button("Download the query", () => download(pretty(this.job.query), `${this.job.job_id}-query.json`))),
      el("h3", {}, "Result"), this.resultNote, this.result,
      el("p", { class: "buttons" }, this.downloadResult),
      this.outputTitle, this.output,
    );
    this.dialog.addEventListener("close", () => {
      this.job = null;
      this.content = null;
    });
  }

  /** Show a job, given an object with its id, the id of its runtime and its number of attempts. */
  async open({ job_id, runtime_id, attempts }) {
    this.job = { job_id, runtime_id };
    this.content = null;
    this.attempts = attempts;
    for (const node of [this.title, this.names, this.error, this.timeline, this.query, this.result, this.resultNote,
      this.output]) {
      node.replaceChildren();
    }
    this.cancelButton.hidden = this.downloadResult.hidden = this.outputTitle.hidden = this.output.hidden = true;
    if (!this.dialog.open) {
      this.dialog.showModal();
    }
    this.dialog.scrollTop = 0;
    this.outdated = this.loading;
    await this.load();
  }

  /** Load the job again if it is among the changed ones. */
  changed(jobs) {
    const job = this.job && jobs.find((each) => each.job_id === this.job.job_id);
    if (job) {
      this.attempts = job.attempts;
      this.load();
    }
  }

  /** Load the job again, with one request at a time. */
  async load() {
    if (this.job === null) {
      return;
    }
    if (this.loading) {
      this.outdated = true;
      return;
    }
    this.loading = true;
    do {
      this.outdated = false;
      const { runtime_id, job_id } = this.job;
      let show;
      try {
        const { job } = parseExact(await this.api.job(runtime_id, job_id));
        show = () => this.#show(job);
      } catch (error) {
        show = () => setText(this.error, error.message);
      }
      // The user may have opened another job meanwhile.
      if (this.job?.job_id === job_id) {
        show();
      }
    } while (this.outdated && this.job !== null);
    this.loading = false;
  }

  async #cancel() {
    try {
      await this.api.cancel(this.job.job_id);
      announce("The job is canceled");
      await this.load();
    } catch (error) {
      setText(this.error, error.message);
    }
  }

  #show(job) {
    this.job = job;
    setText(this.error, "");
    const finished = job.completed_at !== null;
    const status = shownStatus(job);
    if (this.title.textContent !== job.query_type + status) {
      this.title.replaceChildren(el("span", { class: "name" }, job.query_type), badge(status));
    }
    setText(this.names, `${job.job_id} on runtime ${job.runtime_id}`);
    if (finished && document.activeElement === this.cancelButton) {
      this.dialog.querySelector("button").focus();
    }
    this.cancelButton.hidden = finished;
    const steps = stepsOf(job, this.attempts);
    this.timeline.replaceChildren(...steps.map(([kind, moment, what, ...details]) => el("li", { class: kind },
      el("time", { datetime: new Date(moment).toISOString() }, formatTime(moment)),
      el("strong", {}, what),
      el("span", {}, details.filter((each) => each).join(", ")),
    )));
    setText(this.query, shorten(pretty(job.query)));
    this.#showResult(job, finished);
    this.outputTitle.hidden = this.output.hidden = !job.output;
    setText(this.output, job.output ?? "");
  }

  #showResult(job, finished) {
    const text = job.result_body_utf8;
    const binary = job.result_body_base64;
    this.content = text === null ? null : new TextEncoder().encode(text);
    if (binary !== undefined) {
      this.content = Uint8Array.from(atob(binary), (character) => character.charCodeAt(0));
    }
    const there = this.content !== null;
    this.downloadResult.hidden = !there;
    this.result.hidden = !there;
    if (!there) {
      setText(this.resultNote, finished ? "The job has no result." : "No result yet.");
      return;
    }
    const type = job.result_content_type ?? "no content type";
    setText(this.resultNote, `${formatBytes(this.content.length)}, ${type}${text === null ? ", not text" : ""}`);
    setText(this.result, text === null ? dump(this.content) : shorten(indent(text)));
  }
}

/**
 * Return a job's steps: for each its kind, its time, what happened, and details.
 * @param attempts The number of attempts, if it is known. The record keeps only the last of them.
 */
function stepsOf(job, attempts) {
  const steps = [];
  const gone = Math.max(0, (Number(attempts) || 0) - job.attempts.length);
  const to = job.deployed_app_rid === null ? null : `for ${job.deployed_app_rid} on ${job.deployed_app_branch}`;
  steps.push(["queued", job.queued_at, "Queued", job.source, to]);
  let since = job.queued_at;
  job.attempts.forEach((attempt, index) => {
    const which = gone + job.attempts.length > 1 ? `attempt ${gone + index + 1}` : null;
    steps.push(["running", attempt.started_at, "Dispatched", which, after(since, attempt.started_at)]);
    since = attempt.ended_at ?? since;
    const last = index === job.attempts.length - 1 && job.completed_at !== null;
    if (attempt.ended_at !== null && !last) {
      const lasted = after(attempt.started_at, attempt.ended_at);
      steps.push(["queued", attempt.ended_at, "Attempt ended", attempt.outcome, lasted]);
    }
  });
  if (job.completed_at !== null) {
    const status = shownStatus(job);
    const what = status[0].toUpperCase() + status.slice(1);
    const attempt = job.attempts.at(-1);
    const ran = attempt === undefined ? null : `ran for ${formatDuration(job.completed_at - attempt.started_at)}`;
    steps.push([status, job.completed_at, what, job.raised ? shorten(job.raised_message) : job.error_message, ran,
      `${formatDuration(job.completed_at - job.queued_at)} in total`]);
  }
  return steps;
}

function after(from, to) {
  return `after ${formatDuration(to - from)}`;
}

function indent(text) {
  if (text.length > MOST_SHOWN) {
    return text;
  }
  try {
    return pretty(parseExact(text));
  } catch {
    return text;
  }
}

function shorten(text) {
  const more = text.length - MOST_SHOWN;
  return more <= 0 ? text : `${text.slice(0, MOST_SHOWN)}\n… and ${more} more characters`;
}

function dump(bytes) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, MOST_BYTES); at += 16) {
    const line = [...bytes.subarray(at, Math.min(at + 16, MOST_BYTES))];
    const hex = line.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const text = line.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${hex.padEnd(47)}  ${text}`);
  }
  return lines.join("\n") + (bytes.length > MOST_BYTES ? `\n… and ${bytes.length - MOST_BYTES} more bytes` : "");
}
