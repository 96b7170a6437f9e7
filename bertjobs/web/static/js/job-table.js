// A table of jobs whose rows change in place: focus, selection and position stay where they are.

import { fill, h, icon } from "./dom.js";
import { ago, count, duration, number, resources, secondsBetween, since } from "./format.js";
import { withCode } from "./notices.js";
import { jobAddress } from "./router.js";
import { hasEnded, isWaiting, stateLabel } from "./states.js";

// `shows`: what of a row the cell depends on; the cell is built again only when that changed.
const COLUMNS = [
  { name: "state", label: "State", sort: "state", shows: (job) => [job.state, job.place], build: stateCell },
  { name: "job", label: "Job", sort: "name", shows: (job) => [job.id, job.name], build: jobCell },
  {
    name: "progress",
    label: "Progress",
    sort: "place",
    title: "Sort by place in the queue",
    shows: (job) => [job.state, job.reason, job.message, job.phase, job.progress],
    build: progressCell,
  },
  { name: "kind", label: "Kind", sort: "kind", shows: (job) => [job.kind], build: (job) => job.kind },
  { name: "user", label: "User", sort: "user", shows: (job) => [job.user], build: (job) => job.user },
  {
    name: "resources",
    label: "Needs",
    shows: (job) => [job.resources],
    build: (job) => resources(job.resources),
  },
  {
    name: "priority",
    label: "Prio",
    title: "Priority",
    sort: "priority",
    shows: (job) => [job.priority],
    build: (job) => String(job.priority),
  },
  {
    name: "age",
    label: "Submitted",
    sort: "submitted_at",
    isDescendingFirst: true,
    shows: (job) => [job.submitted_at],
    build: (job) => ago(job.submitted_at),
  },
  {
    name: "runtime",
    label: "Runtime",
    sort: "runtime",
    isDescendingFirst: true,
    shows: (job) => [job.started_at, job.ended_at],
    build: runtimeCell,
  },
];

export class JobTable {
  constructor({ onSort, onSelection }) {
    this.onSelection = onSelection;
    this.rows = new Map();
    this.selected = new Map();
    this.lastClicked = null;
    this.all = h("input", { type: "checkbox", "aria-label": "Select all jobs of this page" });
    this.all.addEventListener("change", () => this.selectAll(this.all.checked));
    this.heads = COLUMNS.map((column) => head(column, () => onSort(this.nextSort(column))));
    this.body = h("tbody");
    this.element = h(
      "div",
      { class: "table-wrap" },
      h(
        "table",
        { class: "jobs" },
        h("thead", {}, h("tr", {}, h("th", { class: "col-select", scope: "col" }, this.all), this.heads)),
        this.body,
      ),
    );
  }

  nextSort(column) {
    const ascending = column.sort;
    const descending = `-${column.sort}`;
    if (this.sort === ascending) return descending;
    if (this.sort === descending) return ascending;
    return column.isDescendingFirst ? descending : ascending;
  }

  showSort(sort) {
    this.sort = sort;
    for (const [index, column] of COLUMNS.entries()) {
      const isSorted = column.sort && sort.replace("-", "") === column.sort;
      if (isSorted)
        this.heads[index].setAttribute("aria-sort", sort.startsWith("-") ? "descending" : "ascending");
      else this.heads[index].removeAttribute("aria-sort");
    }
  }

  /** Show these jobs, in this order. */
  show(jobs) {
    const wanted = new Map();
    for (const job of jobs) {
      const row = this.rows.get(job.id) ?? this.newRow(job);
      row.set(job);
      wanted.set(job.id, row);
    }
    this.rows = wanted;
    const elements = [...wanted.values()].map((row) => row.element);
    const isSame =
      elements.length === this.body.children.length &&
      elements.every((each, at) => each === this.body.children[at]);
    if (!isSame) this.body.replaceChildren(...elements);
    this.tellSelection();
  }

  /** Put new states into the rows shown. Returns whether all of them are shown. */
  apply(jobs) {
    let areShown = true;
    for (const job of jobs) {
      const row = this.rows.get(job.id);
      if (row === undefined) areShown = false;
      else row.set(job);
      if (this.selected.has(job.id)) this.selected.set(job.id, job);
    }
    return areShown;
  }

  newRow(job) {
    const row = new Row(job, (event) => this.onCheck(job.id, event));
    row.check(this.selected.has(job.id));
    return row;
  }

  // Shift and click selects everything between two rows.
  onCheck(id, event) {
    const isChecked = event.target.checked;
    const ids = [...this.rows.keys()];
    const [from, to] = [ids.indexOf(this.lastClicked), ids.indexOf(id)];
    const range = event.shiftKey && from >= 0 ? ids.slice(Math.min(from, to), Math.max(from, to) + 1) : [id];
    for (const each of range) this.select(each, isChecked);
    this.lastClicked = id;
    this.tellSelection();
  }

  select(id, isSelected) {
    const row = this.rows.get(id);
    if (isSelected) this.selected.set(id, row.job);
    else this.selected.delete(id);
    row?.check(isSelected);
  }

  selectAll(isSelected) {
    for (const id of this.rows.keys()) this.select(id, isSelected);
    this.tellSelection();
  }

  clearSelection() {
    for (const row of this.rows.values()) row.check(false);
    this.selected.clear();
    this.tellSelection();
  }

  tellSelection() {
    const shown = [...this.rows.keys()].filter((id) => this.selected.has(id)).length;
    this.all.checked = shown > 0 && shown === this.rows.size;
    this.all.indeterminate = shown > 0 && shown < this.rows.size;
    this.onSelection([...this.selected.values()]);
  }
}

class Row {
  constructor(job, onCheck) {
    this.box = h("input", { type: "checkbox", onclick: onCheck });
    this.cells = COLUMNS.map((column) => h("td", { class: `col-${column.name}` }));
    this.signatures = COLUMNS.map(() => null);
    this.element = h(
      "tr",
      { "data-job": job.id },
      h("td", { class: "col-select" }, h("label", {}, this.box)),
      this.cells,
    );
  }

  set(job) {
    this.job = job;
    this.box.setAttribute("aria-label", `Select ${job.name || job.id}`);
    this.element.dataset.state = job.state;
    for (const [index, column] of COLUMNS.entries()) {
      const signature = JSON.stringify(column.shows(job));
      if (signature === this.signatures[index]) continue;
      this.signatures[index] = signature;
      fill(this.cells[index], column.build(job));
    }
  }

  check(isSelected) {
    this.box.checked = isSelected;
    this.element.classList.toggle("selected", isSelected);
  }
}

function head(column, onClick) {
  if (!column.sort) return h("th", { class: `col-${column.name}`, scope: "col" }, column.label);
  return h(
    "th",
    { class: `col-${column.name}`, scope: "col" },
    h(
      "button",
      { type: "button", class: "sort", title: column.title ?? null, onclick: onClick },
      column.label,
      icon("up", { class: "icon sort-mark" }),
    ),
  );
}

function stateCell(job) {
  return [
    stateLabel(job.state),
    job.place ? h("span", { class: "place", title: "Place in the queue" }, `#${count(job.place)}`) : null,
  ];
}

function jobCell(job) {
  return h(
    "a",
    { class: "job-link", href: jobAddress(job.id) },
    h("b", {}, job.name || job.id),
    job.name ? h("code", {}, job.id) : null,
  );
}

function runtimeCell(job) {
  if (!job.started_at) return "";
  return job.ended_at ? duration(secondsBetween(job.started_at, job.ended_at)) : since(job.started_at);
}

function progressCell(job) {
  if (isWaiting(job.state)) return reasonText(job);
  if (!hasEnded(job.state)) return runningText(job);
  if (job.state === "SUCCEEDED") return h("span", { class: "muted ellipsis" }, summary(job.progress));
  return reasonText(job);
}

function reasonText(job) {
  return h(
    "span",
    { class: "reason", title: job.message ?? "" },
    job.reason ? h("b", {}, job.reason) : null,
    job.message ? h("span", { class: "muted" }, withCode(job.message)) : null,
  );
}

function runningText(job) {
  const ratio = progressRatio(job.progress);
  if (ratio === null) return h("span", { class: "muted ellipsis" }, job.phase || job.message || "");
  const { eta_s: eta } = job.progress;
  return h(
    "span",
    { class: "progress-cell" },
    bar(ratio),
    h("span", { class: "figures" }, `${Math.floor(ratio * 100)} %`, eta ? ` · ${duration(eta)} left` : ""),
  );
}

function summary(progress) {
  if (!progress) return "";
  if (progress.num_trials)
    return `${count(progress.num_trials)} trials${progress.metric && progress.best !== null ? `, best is ${progress.best}` : ""}`;
  if (progress.num_steps)
    return `${count(progress.num_steps)} steps${progress.loss !== undefined ? `, loss ${number(progress.loss)}` : ""}`;
  return "";
}

/** Return how far a job is, from 0 to 1; null where it does not say. */
export function progressRatio(progress) {
  if (!progress) return null;
  const [done, all] = progress.num_steps
    ? [progress.step, progress.num_steps]
    : [progress.num_ended, progress.num_trials];
  return all ? Math.min(1, Math.max(0, (done ?? 0) / all)) : null;
}

/** Return a progress bar. */
export function bar(ratio) {
  const inside = h("i", {});
  inside.style.width = `${ratio * 100}%`;
  return h(
    "span",
    {
      class: "bar",
      role: "progressbar",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-valuenow": Math.floor(ratio * 100),
    },
    inside,
  );
}
