// Compare jobs: their curves over one another, and a table of what differs and what came of it.

import { get } from "../api.js";
import { Chart } from "../charts.js";
import { CompareTable } from "../compare-table.js";
import { fill, h, icon } from "../dom.js";
import { JobPicker } from "../job-picker.js";
import { overChoice } from "../job/curves.js";
import { empty, failure } from "../notices.js";
import { address, go, jobAddress } from "../router.js";
import { chartNames, haveTimes, pointsOf, titleOf } from "../series.js";
import { hasEnded, stateLabel } from "../states.js";

const MAX_JOBS = 50;
const REFRESH_MS = 5000;
const MAX_CHARTS = 8;

/** Show the jobs that the address names with `job=`. */
export function showCompare(container, route, context) {
  return new Compare(container, route, context);
}

class Compare {
  constructor(container, route, { setLive }) {
    document.title = "Compare · bertjobs";
    this.over = "step";
    this.charts = new Map();
    this.hiddenJobs = new Set();
    this.chips = h("ul", { class: "compared", "aria-label": "Compared jobs" });
    this.picker = new JobPicker((id) => this.change([...this.ids, id]));
    this.body = h("div", { class: "charts" });
    this.choice = overChoice((over) => {
      this.over = over;
      this.drawCharts();
    });
    this.curves = h(
      "section",
      { class: "panel", "aria-label": "Curves", hidden: true },
      h("header", {}, h("h2", {}, "Curves"), this.choice),
      this.body,
    );
    this.table = new CompareTable();
    this.message = h("div", {});
    fill(
      container,
      h("h1", {}, "Compare"),
      h(
        "section",
        { class: "panel compare-jobs", "aria-label": "Jobs to compare" },
        this.chips,
        this.picker.element,
      ),
      this.message,
      this.curves,
      this.table.element,
    );
    this.timer = setInterval(() => this.refresh(), REFRESH_MS);
    setLive("live");
    this.update(route);
  }

  update(route) {
    this.ids = [...new Set(route.parameters.getAll("job"))].slice(0, MAX_JOBS);
    this.fetch();
  }

  change(ids) {
    go(address(["compare"], { job: [...new Set(ids)] }), { replace: true });
  }

  // Running jobs go on; those that have ended stay as they are.
  refresh() {
    if (!document.hidden && this.found?.jobs.some((job) => !hasEnded(job.state))) this.fetch();
  }

  async fetch() {
    const { ids } = this;
    if (ids.length === 0) {
      this.found = null;
      this.curves.hidden = this.table.element.hidden = true;
      fill(this.chips);
      fill(
        this.message,
        empty(
          "Choose two jobs or more",
          "Type a part of a name or an id above, or select jobs in the queue and press Compare.",
        ),
      );
      return;
    }
    if (!this.found) this.showChips(ids.map((id) => ({ id })));
    try {
      const found = await get("compare", { job: ids });
      if (this.isClosed || ids !== this.ids) return;
      this.found = found;
      fill(this.message);
    } catch (error) {
      if (error.status === 401) return;
      this.curves.hidden = this.table.element.hidden = true;
      this.showChips(ids.map((id) => ({ id })));
      failure(this.message, error);
      return;
    }
    this.showChips(this.found.jobs);
    this.drawCharts();
    this.table.show(this.found);
  }

  showChips(jobs) {
    fill(
      this.chips,
      jobs.map((job, index) =>
        h(
          "li",
          { class: `series-${(index % 8) + 1}` },
          h(
            "button",
            {
              type: "button",
              class: "swatch-button",
              "aria-pressed": String(!this.hiddenJobs.has(job.id)),
              "aria-label": `Show the curves of ${job.name || job.id}`,
              title: "Show or hide its curves",
              onclick: () => this.toggle(job.id),
            },
            h("i", { class: `swatch series-${(index % 8) + 1}` }),
          ),
          h("a", { href: jobAddress(job.id) }, job.name || job.id),
          job.state ? stateLabel(job.state) : null,
          h(
            "button",
            {
              type: "button",
              class: "icon-button",
              "aria-label": `Remove ${job.name || job.id}`,
              onclick: () => this.change(this.ids.filter((id) => id !== this.ids[index])),
            },
            icon("cross"),
          ),
        ),
      ),
    );
  }

  toggle(id) {
    if (!this.found) return;
    if (!this.hiddenJobs.delete(id)) this.hiddenJobs.add(id);
    this.showChips(this.found.jobs);
    this.drawCharts();
  }

  drawCharts() {
    if (!this.found) return;
    const { jobs, curves } = this.found;
    const lines = curves.flatMap((curve) => curve.lines);
    this.curves.hidden = lines.length === 0;
    this.choice.hidden = !haveTimes(lines);
    const names = chartNames(lines)
      .filter((name) => name !== "grad_norm")
      .slice(0, MAX_CHARTS);
    const wanted = names.flatMap((name) => chartsOf(name, lines));
    const keys = wanted.map((each) => each.key);
    if (keys.join() !== [...this.charts.keys()].join()) {
      for (const [key, chart] of this.charts) if (!keys.includes(key)) chart.close();
      this.charts = new Map(
        wanted.map(({ key, title }) => [
          key,
          this.charts.get(key) ?? new Chart(title, { height: 230, hasNames: false }),
        ]),
      );
      fill(
        this.body,
        [...this.charts.values()].map((chart) => chart.element),
      );
    }
    for (const { key, name, kind } of wanted) {
      const shown = curves
        .map((curve, index) => ({
          label: jobs[index].name || curve.id,
          points: this.hiddenJobs.has(curve.id) ? [] : pointsOf(curve.lines, name, kind, this.over),
          color: index,
          hasDots: kind === "epoch",
        }))
        .filter((curve) => curve.points.length > 0);
      this.charts.get(key).set(shown, { isTime: this.over === "time" });
    }
  }

  close() {
    this.isClosed = true;
    clearInterval(this.timer);
    this.picker.close();
    for (const chart of this.charts.values()) chart.close();
  }
}

// A value that is both trained on and evaluated gets two charts: several jobs in one picture are enough.
function chartsOf(name, lines) {
  const kinds = ["step", "epoch"].filter((kind) =>
    lines.some((line) => line.kind === kind && typeof line[name] === "number"),
  );
  return kinds.map((kind) => ({
    key: `${name} ${kind}`,
    name,
    kind,
    title:
      kinds.length === 2 ? `${titleOf(name)}, ${kind === "step" ? "train" : "evaluation"}` : titleOf(name),
  }));
}
