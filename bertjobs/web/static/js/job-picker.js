// A field that finds jobs by a part of their id, name, user or kind, and gives one of them.

import { get } from "./api.js";
import { fill, h } from "./dom.js";
import { stateLabel } from "./states.js";

const TYPING_MS = 150;
const NUM_FOUND = 8;

export class JobPicker {
  constructor(onPick) {
    this.onPick = onPick;
    this.at = -1;
    this.found = [];
    this.list = h("ul", { id: "picker-list", role: "listbox", "aria-label": "Jobs found", hidden: true });
    this.field = h("input", {
      type: "search",
      placeholder: "Add a job: name or id",
      "aria-label": "Add a job",
      role: "combobox",
      "aria-expanded": "false",
      "aria-controls": "picker-list",
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this.search(),
      onfocus: () => this.search(),
      onkeydown: (event) => this.onKey(event),
      // After the click on an entry, which takes the focus first.
      onblur: () => setTimeout(() => this.hide(), 150),
    });
    this.element = h("div", { class: "picker" }, this.field, this.list);
  }

  search() {
    clearTimeout(this.typing);
    this.typing = setTimeout(async () => {
      const words = this.field.value.trim();
      try {
        const { jobs } = await get("jobs", { q: words, limit: NUM_FOUND });
        if (document.activeElement === this.field) this.show(jobs);
      } catch {
        this.hide();
      }
    }, TYPING_MS);
  }

  show(jobs) {
    this.found = jobs;
    this.at = jobs.length && this.field.value.trim() ? 0 : -1;
    this.list.hidden = false;
    this.field.setAttribute("aria-expanded", "true");
    fill(
      this.list,
      jobs.length
        ? jobs.map((job, index) =>
            h(
              "li",
              {
                role: "option",
                id: `picked-${index}`,
                onmousedown: (event) => event.preventDefault(),
                onclick: () => this.pick(job),
              },
              h("b", {}, job.name || job.id),
              h("code", {}, job.id),
              stateLabel(job.state),
            ),
          )
        : h("li", { class: "muted" }, "No job matches"),
    );
    this.mark();
  }

  onKey(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      if (this.found.length) this.at = (this.at + step + this.found.length) % this.found.length;
      this.mark();
    } else if (event.key === "Enter" && this.found[this.at]) {
      event.preventDefault();
      this.pick(this.found[this.at]);
    } else if (event.key === "Escape") this.hide();
  }

  mark() {
    for (const [index, item] of [...this.list.children].entries())
      item.setAttribute("aria-selected", String(index === this.at));
    if (this.at >= 0) this.field.setAttribute("aria-activedescendant", `picked-${this.at}`);
    else this.field.removeAttribute("aria-activedescendant");
  }

  pick(job) {
    this.field.value = "";
    this.hide();
    this.onPick(job.id);
  }

  hide() {
    this.list.hidden = true;
    this.found = [];
    this.field.setAttribute("aria-expanded", "false");
  }

  close() {
    clearTimeout(this.typing);
  }
}
