// The bar that appears when jobs are selected: how many, what can be done with them, compare.

import { act, ACTIONS, actionsFor } from "./actions.js";
import { fill, h, setText } from "./dom.js";
import { counted } from "./format.js";
import { address } from "./router.js";

const MAX_COMPARED = 50;

export class SelectionBar {
  constructor({ session, onChanged, onCleared }) {
    this.session = session;
    this.onChanged = onChanged;
    this.jobs = [];
    this.text = h("b", { role: "status" });
    this.compare = h("a", { class: "button", href: "#/compare" }, "Compare");
    this.buttons = ACTIONS.map((action) =>
      h(
        "button",
        { type: "button", class: action.danger ? "danger-text" : null, onclick: () => this.run(action.name) },
        action.label,
      ),
    );
    this.element = h(
      "div",
      { class: "selection", role: "toolbar", "aria-label": "Actions for the selected jobs", hidden: true },
      this.text,
      h(
        "div",
        { class: "selection-buttons" },
        this.buttons,
        this.compare,
        h("button", { type: "button", class: "plain", onclick: onCleared }, "Clear"),
      ),
    );
  }

  show(jobs) {
    this.jobs = jobs;
    this.element.hidden = jobs.length === 0;
    document.body.classList.toggle("has-selection", jobs.length > 0);
    setText(this.text, `${counted(jobs.length, "job")} selected`);
    for (const [index, action] of ACTIONS.entries()) {
      const able = this.able(action.name).length;
      this.buttons[index].disabled = able === 0;
      fill(
        this.buttons[index],
        action.label,
        able && able < jobs.length ? h("span", { class: "count" }, able) : null,
      );
    }
    this.compare.setAttribute(
      "href",
      address(["compare"], { job: jobs.slice(0, MAX_COMPARED).map((job) => job.id) }),
    );
  }

  /** Take over new states of the selected jobs: what can be done depends on them. */
  refresh(jobs) {
    if (this.jobs.length === 0) return;
    const news = new Map(jobs.map((job) => [job.id, job]));
    if (this.jobs.some((job) => news.has(job.id))) this.show(this.jobs.map((job) => news.get(job.id) ?? job));
  }

  able(action) {
    return this.jobs.filter((job) => actionsFor(job, this.session).includes(action));
  }

  async run(action) {
    const changed = await act(action, this.able(action));
    if (changed !== null) this.onChanged(changed);
  }
}
