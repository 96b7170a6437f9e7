// The trials of a search: parallel coordinates and a sorted table, which light up together.

import { get } from "../api.js";
import { fill, h, icon, setText } from "../dom.js";
import { configValue, duration, number } from "../format.js";
import { empty } from "../notices.js";
import { ParallelCoordinates } from "./parallel.js";

const REFETCH_MS = 3000;
const TRIAL_STATES = {
  running: { tone: "active", icon: "play" },
  finished: { tone: "good", icon: "check" },
  stopped: { tone: "off", icon: "slash" },
  failed: { tone: "bad", icon: "cross" },
};

export class TrialsPanel {
  constructor(id) {
    this.id = id;
    this.sort = { column: "value", isDescending: true };
    this.timer = null;
    this.summary = h("span", { class: "muted" });
    this.picture = new ParallelCoordinates((trial) => this.light(trial));
    this.body = h("div", {});
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Trials", id: "trials" },
      h("header", {}, h("h2", {}, "Trials"), this.summary),
      this.picture.element,
      this.body,
    );
  }

  fetchSoon() {
    this.timer ??= setTimeout(() => this.fetch(), REFETCH_MS);
  }

  async fetch() {
    clearTimeout(this.timer);
    this.timer = null;
    try {
      this.found = await get(`jobs/${encodeURIComponent(this.id)}/trials`);
    } catch (error) {
      if (error.status !== 401)
        fill(this.body, empty(error.status === 404 ? "No trial has started" : error.message));
      return;
    }
    if (!this.isClosed) this.draw();
  }

  draw() {
    const { found } = this;
    if (!this.hasOrder) {
      // A loss is better when it is smaller.
      this.sort.isDescending = !/loss|perplexity/.test(found.metric);
      this.hasOrder = true;
    }
    setText(
      this.summary,
      `${found.num_ended} of ${found.num_trials} ended, ${found.num_stopped_early} stopped early, ${found.num_failed} failed · ${found.algorithm}, ${found.stopper}`,
    );
    const paths = Object.keys(found.space);
    this.picture.show(found.trials, found.space, found.metric, {
      isSmallBetter: !this.sort.isDescending && this.sort.column === "value",
    });
    const columns = [
      { name: "number", label: "Trial", of: (trial) => trial.number },
      { name: "state", label: "State", of: (trial) => trial.state },
      { name: "value", label: found.metric, of: (trial) => trial.value },
      ...paths.map((path) => ({
        name: path,
        label: path.split(".").at(-1),
        title: path,
        of: (trial) => trial.values[path],
      })),
      { name: "epoch", label: "Epochs", of: (trial) => trial.history.at(-1)?.epoch ?? null },
      { name: "train_s", label: "Time", of: (trial) => trial.train_s },
    ];
    const by = columns.find((column) => column.name === this.sort.column) ?? columns[2];
    const trials = [...found.trials].sort((a, b) => compare(by.of(a), by.of(b), this.sort.isDescending));
    this.rows = new Map();
    fill(
      this.body,
      h(
        "div",
        { class: "table-wrap trials" },
        h(
          "table",
          {},
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              columns.map((column) =>
                this.head(
                  column,
                  typeof column.of(found.trials[0] ?? { values: {}, history: [] }) !== "string",
                ),
              ),
            ),
          ),
          h(
            "tbody",
            {},
            trials.map((trial) => this.row(trial, columns)),
          ),
        ),
      ),
    );
  }

  head(column, isNumber) {
    const isSorted = column.name === this.sort.column;
    return h(
      "th",
      {
        scope: "col",
        class: isNumber ? "number" : null,
        title: column.title ?? null,
        "aria-sort": isSorted ? (this.sort.isDescending ? "descending" : "ascending") : null,
      },
      h(
        "button",
        { type: "button", class: "sort", onclick: () => this.sortBy(column.name) },
        column.label,
        icon("up", { class: "icon sort-mark" }),
      ),
    );
  }

  sortBy(name) {
    this.sort = {
      column: name,
      isDescending: this.sort.column === name ? !this.sort.isDescending : name === "value",
    };
    this.draw();
    this.body.querySelector("[aria-sort] button")?.focus();
  }

  row(trial, columns) {
    const isBest = trial.number === this.found.best;
    const row = h(
      "tr",
      {
        class: isBest ? "best" : null,
        onmouseenter: () => this.picture.light(trial.number),
        onmouseleave: () => this.picture.light(null),
      },
      columns.map((column) => {
        const value = column.of(trial);
        if (column.name === "state") return h("td", {}, trialState(trial));
        if (column.name === "train_s") return h("td", { class: "number" }, duration(value));
        const text =
          typeof value === "number"
            ? number(value)
            : value === null || value === undefined
              ? ""
              : configValue(value);
        return h(
          "td",
          { class: typeof value === "string" ? null : "number" },
          text,
          isBest && column.name === "value" ? h("span", { class: "best-mark" }, "best") : null,
        );
      }),
    );
    this.rows.set(trial.number, row);
    return row;
  }

  light(number) {
    for (const [each, row] of this.rows ?? []) row.classList.toggle("lit", each === number);
  }

  close() {
    this.isClosed = true;
    clearTimeout(this.timer);
    this.picture.close();
  }
}

function trialState(trial) {
  const known = TRIAL_STATES[trial.state] ?? { tone: "off", icon: "circle" };
  return h(
    "span",
    {
      class: `state tone-${known.tone}`,
      title: [trial.reason, trial.message].filter(Boolean).join(": ") || null,
    },
    icon(known.icon),
    trial.state,
  );
}

// Missing values come last in both directions.
function compare(a, b, isDescending) {
  const [aMissing, bMissing] = [a, b].map((value) => value === null || value === undefined);
  if (aMissing || bMissing) return Number(aMissing) - Number(bMissing);
  const order =
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), undefined, { numeric: true });
  return isDescending ? -order : order;
}
