/** @file The list of jobs: one page of it, kept up to date. */

import { announce, arrange, badge, byId, count, el, formatBytes, formatDuration, formatTime, setText, shownStatus } from "./dom.js";

const PAGE = 50;

/** The most function names that are suggested. */
const MOST_SUGGESTED = 100;

/** Milliseconds after which a page is filled up again when jobs no longer match its filter. */
const REFILL = 500;

export class JobList {
  /** @param {function(Object)} open Called with the job that the user opens. */
  constructor(api, open) {
    this.api = api;
    this.open = open;
    this.body = byId("rows");
    this.filter = { runtime: "", function: "", status: "" };
    this.jobs = [];
    this.rows = new Map();
    // The job number before which this page begins, and those of the newer pages.
    this.before = null;
    this.newerPages = [];
    this.next = null;
    this.held = false;
    this.missed = new Set();
    this.loads = 0;
    this.arrived = null;
    this.refilling = 0;
    this.suggested = new Set();
    this.#listen();
  }

  #listen() {
    const form = byId("filters");
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => {
      this.filter = Object.fromEntries(new FormData(form));
      this.#goTo(null, []);
    });
    byId("hold").addEventListener("click", () => this.#hold(!this.held));
    byId("newest").addEventListener("click", () => {
      this.#hold(false);
      this.#goTo(null, []);
    });
    byId("newer").addEventListener("click", () => {
      const before = this.newerPages.at(-1) ?? null;
      this.#goTo(before, this.newerPages.slice(0, -1));
    });
    byId("older").addEventListener("click", () => this.#goTo(this.next, [...this.newerPages, this.before]));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row !== null && getSelection().isCollapsed) {
        row.querySelector("button").focus();
        this.open(this.jobs.find((job) => this.rows.get(job.job_id).node === row));
      }
    });
    this.body.addEventListener("keydown", (event) => {
      const row = event.target.closest("tr");
      const to = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling }[event.key];
      if (to) {
        event.preventDefault();
        to.querySelector("button").focus();
      }
    });
  }

  #hold(held) {
    this.held = held;
    byId("hold").setAttribute("aria-pressed", held);
    if (!held && this.missed.size > 0) {
      this.load();
    }
    this.#note();
  }

  async #goTo(before, newerPages) {
    this.before = before;
    this.newerPages = newerPages;
    await this.load();
    announce(`${count(this.jobs.length, "job")} shown`);
  }

  /** Whether new jobs appear on this page. */
  get live() {
    return this.before === null && !this.held;
  }

  /** Load the page again. */
  async load() {
    const load = ++this.loads;
    const arrived = this.arrived = new Map();
    let page;
    try {
      page = await this.api.jobs(this.filter, this.before, PAGE);
    } catch (error) {
      if (load === this.loads) {
        this.arrived = null;
        setText(byId("page-note"), error.message);
      }
      return;
    }
    if (load !== this.loads) {
      return;
    }
    this.arrived = null;
    this.jobs = page.jobs;
    this.next = page.next;
    this.missed.clear();
    page.jobs.forEach((job) => this.#suggest(job.query_type));
    this.changed([...arrived.values()]);
  }

  #fits(job) {
    const { runtime, function: name, status } = this.filter;
    return (!runtime || job.runtime_id === runtime) && (!name || job.query_type === name) &&
      (!status || shownStatus(job) === status);
  }

  /** Update jobs with their current records. */
  changed(changed) {
    const shown = new Map(this.jobs.map((job) => [job.job_id, job]));
    const first = this.jobs[0]?.number ?? 0;
    for (const job of changed) {
      this.arrived?.set(job.job_id, job);
      this.#suggest(job.query_type);
      if (!this.#fits(job)) {
        shown.delete(job.job_id);
        this.missed.delete(job.job_id);
      } else if (shown.has(job.job_id)) {
        shown.set(job.job_id, job);
      } else if (this.live && (this.next === null || job.number >= this.next)) {
        shown.set(job.job_id, job);
      } else if (job.number > first && this.missed.size < 10_000) {
        this.missed.add(job.job_id);
      }
    }
    this.jobs = [...shown.values()].sort((one, other) => other.number - one.number);
    if (this.jobs.length > PAGE) {
      this.jobs.length = PAGE;
      this.next = this.jobs[PAGE - 1].number;
    } else if (this.jobs.length < PAGE && this.next !== null && this.live) {
      this.refilling ||= setTimeout(() => {
        this.refilling = 0;
        this.load();
      }, REFILL);
    }
    this.#render();
  }

  #render() {
    const byJob = new Map(this.jobs.map((job) => [job.job_id, job]));
    arrange(this.body, [...byJob.keys()], this.rows, () => ({ node: makeRow() }));
    for (const [jobId, { node }] of this.rows) {
      fillRow(node, byJob.get(jobId));
    }
    this.#note();
  }

  #note() {
    byId("newest").disabled = this.before === null && !this.held;
    byId("newer").disabled = this.before === null;
    byId("older").disabled = this.next === null;
    const page = `Page ${this.newerPages.length + 1}, ${count(this.jobs.length, "job")}`;
    const newer = this.missed.size > 0 ? `; ${this.missed.size} newer` : "";
    setText(byId("page-note"), (this.jobs.length === 0 ? "No jobs" : page) + newer);
  }

  #suggest(name) {
    if (!this.suggested.has(name) && this.suggested.size < MOST_SUGGESTED) {
      this.suggested.add(name);
      byId("functions").append(el("option", { value: name }));
    }
  }

  /** Set the runtimes that the filter offers. */
  setRuntimes(ids) {
    const select = byId("filters").elements.runtime;
    const known = [...select.options].slice(1).map((option) => option.value);
    if (JSON.stringify(known) === JSON.stringify(ids)) {
      return;
    }
    const chosen = select.value;
    const kept = chosen === "" || ids.includes(chosen) ? ids : [...ids, chosen];
    select.replaceChildren(select.options[0], ...kept.map((id) => el("option", { value: id }, id)));
    select.value = chosen;
  }
}

function makeRow() {
  const name = el("button", { type: "button", class: "link" });
  const row = el("tr", {}, el("td", {}, name), el("td", {}, badge("queued")));
  for (const kind of ["", "", "", "number", "number", "number", "number"]) {
    row.append(el("td", { class: kind || null }));
  }
  return row;
}

function between(from, to) {
  return formatDuration(from === null || to === null ? null : to - from);
}

function fillRow(row, job) {
  const [name, status, ...cells] = row.cells;
  setText(name.firstChild, job.query_type);
  if (status.firstChild.textContent !== shownStatus(job)) {
    status.replaceChildren(badge(shownStatus(job)));
  }
  const texts = [
    job.runtime_id,
    job.source,
    formatTime(job.queued_at),
    between(job.queued_at, job.started_at ?? job.completed_at),
    between(job.started_at, job.completed_at),
    String(job.attempts),
    formatBytes(job.result_bytes),
  ];
  cells.forEach((cell, index) => setText(cell, texts[index]));
}
