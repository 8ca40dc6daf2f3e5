/** @file The charts of the last minute: how many jobs ended in each second, and how long they took. */

import { count, el, formatDuration, setText, svg } from "./dom.js";

/** Seconds that are shown. */
const WINDOW = 60;
const HEIGHT = 40;

/** The most jobs of one second whose durations are kept. */
const MOST_KEPT = 5000;

export class Charts {
  /** @param {function(): number} now Returns the emulator's time in milliseconds since the epoch. */
  constructor(parent, now) {
    this.now = now;
    // Durations of jobs, by the second in which they ended and by job id.
    this.seconds = new Map();
    this.throughput = makeChart("Jobs ended per second");
    this.latency = makeChart("Queued to ended", [["median", "Median"], ["high", "95th percentile"]]);
    parent.append(this.throughput.node, this.latency.node);
    this.draw();
  }

  /** Count a finished job. A job that comes from a list and from an event is counted once. */
  add(job) {
    const at = Math.floor(job.completed_at / 1000);
    if (job.completed_at === null || at <= this.now() / 1000 - WINDOW) {
      return;
    }
    if (!this.seconds.has(at)) {
      this.seconds.set(at, { at, ended: 0, took: new Map() });
    }
    const second = this.seconds.get(at);
    if (!second.took.has(job.job_id)) {
      second.ended++;
      if (second.took.size < MOST_KEPT) {
        second.took.set(job.job_id, job.completed_at - job.queued_at);
      }
    }
  }

  draw() {
    const now = Math.floor(this.now() / 1000);
    for (const at of this.seconds.keys()) {
      if (at <= now - WINDOW) {
        this.seconds.delete(at);
      }
    }
    const shown = [...this.seconds.values()].filter((second) => second.at <= now);
    shown.sort((one, other) => one.at - other.at);
    const place = (second) => WINDOW - 1 - (now - second.at);

    const most = Math.max(1, ...shown.map((second) => second.ended));
    this.throughput.fill(String(most), shown.map((second) => {
      const height = (second.ended / most) * HEIGHT;
      return svg("rect", { class: "bar", x: place(second), y: HEIGHT - height, width: 0.9, height });
    }));
    const total = shown.reduce((sum, second) => sum + second.ended, 0);
    this.throughput.say(total === 0 ? "No jobs ended" : `${count(total, "job")} ended, at most ${most} per second`);

    const spread = shown.map((second) => {
      const sorted = [...second.took.values()].sort((one, other) => one - other);
      return { x: place(second) + 0.45, median: quantile(sorted, 0.5), high: quantile(sorted, 0.95) };
    });
    const longest = Math.max(1, ...spread.map((each) => each.high));
    const line = (key) => {
      const points = spread.map((each) => [each.x, HEIGHT - (each[key] / longest) * HEIGHT]);
      return [
        svg("polyline", { class: key, points: points.join(" ") }),
        // A single second makes no polyline, so each second is a short line, too.
        ...points.map(([x, y]) => svg("line", { class: key, x1: x - 0.3, x2: x + 0.3, y1: y, y2: y })),
      ];
    };
    this.latency.fill(formatDuration(longest), [...line("high"), ...line("median")]);
    const all = shown.flatMap((second) => [...second.took.values()]).sort((one, other) => one - other);
    this.latency.say(all.length === 0 ? "No jobs ended" :
      `Median ${formatDuration(quantile(all, 0.5))}, 95th percentile ${formatDuration(quantile(all, 0.95))}`);
  }
}

function quantile(sorted, part) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
}

function makeChart(title, keys = []) {
  const summary = el("p", {});
  const top = el("span", { class: "top" });
  const plot = svg("svg", { viewBox: `0 0 ${WINDOW} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const legend = keys.map(([key, text]) => el("span", { class: `key ${key}` }, text));
  const node = el("figure", {},
    el("figcaption", {}, el("strong", {}, title), ...legend),
    el("div", { class: "plot" }, top, plot),
    el("div", { class: "axis", "aria-hidden": "true" }, el("span", {}, `${WINDOW} s ago`), el("span", {}, "now")),
    summary,
  );
  return {
    node,
    fill: (most, shapes) => {
      setText(top, most);
      plot.replaceChildren(...shapes);
    },
    say: (text) => setText(summary, text),
  };
}
