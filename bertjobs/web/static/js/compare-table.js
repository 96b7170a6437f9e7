// What was given and what came of it: results and parameters as rows, jobs as columns that any row sorts.

import { fill, h, icon } from "./dom.js";
import { configValue, duration, number, secondsBetween } from "./format.js";
import { jobAddress } from "./router.js";

export class CompareTable {
  constructor() {
    this.sort = null;
    this.onlyDifferent = h("input", { type: "checkbox", checked: true, onchange: () => this.draw() });
    this.words = h("input", {
      type: "text",
      placeholder: "Filter rows",
      "aria-label": "Filter rows",
      spellcheck: "false",
      oninput: () => this.draw(),
    });
    this.body = h("div", { class: "table-wrap compare-table" });
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Parameters and results", hidden: true },
      h(
        "header",
        {},
        h("h2", {}, "Results and parameters"),
        h(
          "div",
          { class: "log-tools" },
          h("label", { class: "check" }, this.onlyDifferent, "Only different parameters"),
          this.words,
        ),
      ),
      this.body,
    );
  }

  show(found) {
    this.found = found;
    this.element.hidden = false;
    this.draw();
  }

  rows() {
    const { jobs, parameters, results } = this.found;
    const words = this.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = ({ name }) => words.every((word) => name.toLowerCase().includes(word));
    const isSeveral = jobs.length > 1;
    return [
      ...results.map(({ name, values }) => ({ group: "Results", name, values, show: number })),
      {
        group: "Results",
        name: "runtime",
        values: jobs.map((job) => secondsBetween(job.started_at, job.ended_at)),
        show: (value) => (value === null ? "" : duration(value)),
      },
      ...parameters
        .filter((row) => row.differs || !this.onlyDifferent.checked || !isSeveral)
        .map(({ path, values, differs }) => ({
          group: "Parameters",
          name: path,
          values,
          differs,
          show: (value) => (value === null ? "null" : configValue(value)),
        })),
    ].filter(matches);
  }

  draw() {
    const { jobs } = this.found;
    const rows = this.rows();
    const order = this.order(rows, jobs.length);
    fill(
      this.body,
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "Job"),
            order.map((at) =>
              h(
                "th",
                { scope: "col", class: "number" },
                h(
                  "a",
                  { href: jobAddress(jobs[at].id), title: jobs[at].id },
                  h("i", { class: `swatch series-${(at % 8) + 1}` }),
                  h("span", {}, jobs[at].name || jobs[at].id),
                ),
              ),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          rows.map((row, index) => this.row(row, order, row.group !== rows[index - 1]?.group)),
        ),
      ),
      rows.some((row) => row.group === "Parameters")
        ? null
        : h(
            "p",
            { class: "panel-body muted" },
            this.words.value ? "No parameter matches" : "No parameter differs",
          ),
    );
  }

  row(row, order, isFirst) {
    const isSorted = this.sort?.name === row.name;
    return h(
      "tr",
      { class: [isFirst ? "first-of-group" : "", row.differs ? "changed" : ""].join(" ").trim() || null },
      h(
        "th",
        {
          scope: "row",
          "aria-sort": isSorted ? (this.sort.isDescending ? "descending" : "ascending") : null,
        },
        h(
          "button",
          {
            type: "button",
            class: "sort",
            title: "Sort the jobs by this row",
            "data-row": row.name,
            onclick: () => this.sortBy(row.name),
          },
          row.name,
          icon("up", { class: "icon sort-mark" }),
        ),
      ),
      order.map((at) =>
        h(
          "td",
          { class: "number" },
          row.values[at] === undefined
            ? ""
            : row.group === "Results" && row.values[at] === null
              ? h("span", { class: "muted" }, "–")
              : row.show(row.values[at]),
        ),
      ),
    );
  }

  order(rows, length) {
    const all = Array.from({ length }, (_, index) => index);
    const row = this.sort && rows.find((each) => each.name === this.sort.name);
    if (!row) return all;
    const missing = (value) => value === null || value === undefined;
    return all.sort((a, b) => {
      const [left, right] = [row.values[a], row.values[b]];
      if (missing(left) || missing(right)) return Number(missing(left)) - Number(missing(right));
      const by =
        typeof left === "number" && typeof right === "number"
          ? left - right
          : configValue(left).localeCompare(configValue(right), undefined, { numeric: true });
      return this.sort.isDescending ? -by : by;
    });
  }

  /** Descending, ascending, and back to the order in which the jobs were chosen. */
  sortBy(name) {
    if (this.sort?.name !== name) this.sort = { name, isDescending: true };
    else if (this.sort.isDescending) this.sort = { name, isDescending: false };
    else this.sort = null;
    this.draw();
    this.body.querySelector(`[data-row="${CSS.escape(name)}"]`)?.focus();
  }
}
