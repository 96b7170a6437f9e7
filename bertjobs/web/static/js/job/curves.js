// The curves of one job, which grow while it runs.

import { get } from "../api.js";
import { Chart } from "../charts.js";
import { fill, h } from "../dom.js";
import { empty } from "../notices.js";
import { chartNames, haveTimes, pointsOf, titleOf } from "../series.js";
import { hasEnded } from "../states.js";

const MAX_POINTS = 1000;

export class CurvePanel {
  constructor(id) {
    this.id = id;
    this.lines = [];
    this.waiting = [];
    this.isFetched = false;
    this.over = "step";
    this.charts = new Map();
    this.body = h("div", { class: "charts" });
    this.choice = overChoice((over) => {
      this.over = over;
      this.draw();
    });
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Curves", id: "curves" },
      h("header", {}, h("h2", {}, "Curves"), this.choice),
      this.body,
    );
  }

  async fetch() {
    this.isFetched = false;
    try {
      const { lines } = await get(`jobs/${encodeURIComponent(this.id)}/metrics`, { max_points: MAX_POINTS });
      this.lines = lines;
    } catch (error) {
      if (error.status !== 404) fill(this.body, empty(error.message, error.hint));
    }
    this.isFetched = true;
    this.take(this.waiting.splice(0));
    this.draw();
  }

  /** Add new lines; those that arrive before the first answer wait for it. */
  add(lines) {
    if (!this.isFetched) this.waiting.push(...lines);
    else {
      this.take(lines);
      this.draw();
    }
  }

  take(lines) {
    // A step can be told twice: by a retried call, or by an attempt that repeats it. The later line counts.
    const all = new Map(this.lines.map((line) => [keyOf(line), line]));
    for (const line of lines) all.set(keyOf(line), line);
    this.lines = [...all.values()];
    if (this.lines.length > 4 * MAX_POINTS) this.thin();
  }

  // A long run sends lines for hours: every second of the older half is enough for a picture.
  thin() {
    const half = this.lines.length / 2;
    this.lines = this.lines.filter((line, index) => line.kind === "epoch" || index > half || index % 2);
  }

  tell(job) {
    this.job = job;
    if (this.isFetched && this.lines.length === 0) this.draw();
  }

  draw() {
    if (this.isClosed || !this.isFetched) return;
    const { lines, over } = this;
    this.choice.hidden = !haveTimes(lines);
    if (lines.length === 0) {
      this.element.hidden = hasEnded(this.job?.state) || this.job?.kind === "tune";
      fill(this.body, empty("No step has been reported", "The curves start with the first step."));
      return;
    }
    this.element.hidden = false;
    const names = chartNames(lines);
    if (names.join() !== [...this.charts.keys()].join()) this.arrange(names);
    for (const [name, chart] of this.charts)
      chart.set(curvesOf(lines, name, over), { isTime: over === "time" });
  }

  arrange(names) {
    for (const [name, chart] of this.charts) if (!names.includes(name)) chart.close();
    this.charts = new Map(names.map((name) => [name, this.charts.get(name) ?? new Chart(titleOf(name))]));
    fill(
      this.body,
      [...this.charts.values()].map((chart) => chart.element),
    );
  }

  close() {
    this.isClosed = true;
    for (const chart of this.charts.values()) chart.close();
  }
}

function curvesOf(lines, name, over) {
  const steps = pointsOf(lines, name, "step", over);
  const evaluations = pointsOf(lines, name, "epoch", over);
  const both = steps.length > 0 && evaluations.length > 0;
  return [
    steps.length ? { label: both ? "train" : name, points: steps, color: 0 } : null,
    evaluations.length
      ? { label: both ? "evaluation" : name, points: evaluations, color: both ? 1 : 2, hasDots: true }
      : null,
  ].filter(Boolean);
}

const keyOf = (line) => `${line.kind} ${line.step}`;

/** Return the buttons that choose what the x axis is. */
export function overChoice(onChange) {
  const buttons = ["step", "time"].map((over) =>
    h(
      "button",
      {
        type: "button",
        "aria-pressed": String(over === "step"),
        "data-over": over,
        onclick: () => choose(over),
      },
      over === "step" ? "Steps" : "Time",
    ),
  );
  function choose(over) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.over === over));
    onChange(over);
  }
  return h("div", { class: "segmented", role: "group", "aria-label": "Horizontal axis" }, buttons);
}
