// What the last minute was like: how many jobs ended in each second, and how long they took.

import { count, el, formatDuration, setText, svg } from "./dom.js";

// Seconds that are shown.
const WINDOW = 60;
const HEIGHT = 40;

// The most durations of one second that are kept; past it, later ones take the place of earlier ones.
const MOST_KEPT = 1000;

export class Charts {
  constructor(parent) {
    // The last second that is kept is at the end.
    this.seconds = [];
    this.throughput = makeChart("Jobs ended in a second");
    this.latency = makeChart("From queued to ended", [["median", "Median"], ["high", "95 of 100 within"]]);
    parent.append(this.throughput.node, this.latency.node);
    this.draw();
  }

  // A job as an event tells it.
  add(job) {
    if (job.completed_at === null) {
      return;
    }
    const second = this.#second(Math.floor(Date.now() / 1000));
    second.took[second.ended++ % MOST_KEPT] = job.completed_at - job.queued_at;
  }

  #second(at) {
    if (this.seconds.at(-1)?.at !== at) {
      this.seconds.push({ at, ended: 0, took: [] });
      while (this.seconds[0].at <= at - WINDOW) {
        this.seconds.shift();
      }
    }
    return this.seconds.at(-1);
  }

  draw() {
    const now = Math.floor(Date.now() / 1000);
    const shown = this.seconds.filter((second) => second.at > now - WINDOW && second.ended > 0);
    const place = (second) => WINDOW - 1 - (now - second.at);

    const most = Math.max(1, ...shown.map((second) => second.ended));
    this.throughput.fill(String(most), shown.map((second) => {
      const height = (second.ended / most) * HEIGHT;
      return svg("rect", { class: "bar", x: place(second), y: HEIGHT - height, width: 0.9, height });
    }));
    const total = shown.reduce((sum, second) => sum + second.ended, 0);
    this.throughput.say(total === 0 ? "No job ended" : `${count(total, "job")} ended, at most ${most} in a second`);

    const spread = shown.map((second) => {
      const sorted = [...second.took].sort((one, other) => one - other);
      return { x: place(second) + 0.45, median: quantile(sorted, 0.5), high: quantile(sorted, 0.95) };
    });
    const longest = Math.max(1, ...spread.map((each) => each.high));
    const line = (key) => {
      const points = spread.map((each) => [each.x, HEIGHT - (each[key] / longest) * HEIGHT]);
      return [
        svg("polyline", { class: key, points: points.join(" ") }),
        // One second alone makes no line.
        ...points.map(([x, y]) => svg("line", { class: key, x1: x - 0.3, x2: x + 0.3, y1: y, y2: y })),
      ];
    };
    this.latency.fill(formatDuration(longest), [...line("high"), ...line("median")]);
    const all = shown.flatMap((second) => second.took).sort((one, other) => one - other);
    this.latency.say(all.length === 0 ? "No job ended" :
      `Median ${formatDuration(quantile(all, 0.5))}, 95 of 100 within ${formatDuration(quantile(all, 0.95))}`);
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
