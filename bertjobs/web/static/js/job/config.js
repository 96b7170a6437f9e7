// The configuration of a job, with what differs from its preset or from the defaults.

import { fill, h } from "../dom.js";
import { configValue } from "../format.js";

export class ConfigPanel {
  constructor(job) {
    this.job = job;
    this.changed = new Map((job.changed_config ?? []).map((each) => [each.path, each]));
    this.rows = flatten(job.config ?? {});
    for (const path of this.changed.keys())
      if (!this.rows.some((row) => row.path === path))
        this.rows.push({ path, value: this.changed.get(path).value });
    this.onlyChanged = h("input", {
      type: "checkbox",
      checked: this.changed.size > 0,
      disabled: this.changed.size === 0,
      onchange: () => this.draw(),
    });
    this.words = h("input", {
      type: "text",
      placeholder: "Filter parameters",
      "aria-label": "Filter parameters",
      spellcheck: "false",
      oninput: () => this.draw(),
    });
    this.body = h("tbody");
    this.nothing = h("p", { class: "muted panel-body" });
    const origin = job.preset ? ["preset ", h("code", {}, job.preset)] : "the defaults";
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Configuration", id: "config" },
      h(
        "header",
        {},
        h("h2", {}, "Configuration"),
        h("span", { class: "muted" }, `${this.changed.size} of ${this.rows.length} differ from `, origin),
        h(
          "div",
          { class: "log-tools" },
          h("label", { class: "check" }, this.onlyChanged, "Only these"),
          this.words,
        ),
      ),
      h(
        "div",
        { class: "table-wrap config-rows" },
        h(
          "table",
          { class: "config" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ["Parameter", "Value", job.preset ? "Preset" : "Default"].map((title) =>
                h("th", { scope: "col" }, title),
              ),
            ),
          ),
          this.body,
        ),
      ),
      this.nothing,
    );
    this.draw();
  }

  draw() {
    const words = this.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = this.rows.filter(
      ({ path }) =>
        (!this.onlyChanged.checked || this.changed.has(path)) &&
        words.every((word) => path.toLowerCase().includes(word)),
    );
    this.nothing.hidden = wanted.length > 0;
    this.nothing.textContent = words.length ? "No parameter matches" : "Nothing differs";
    fill(
      this.body,
      wanted.map(({ path, value }) => {
        const change = this.changed.get(path);
        return h(
          "tr",
          { class: change ? "changed" : null },
          h("th", { scope: "row" }, h("code", {}, path)),
          h(
            "td",
            {},
            h("code", {}, configValue(value)),
            change ? h("span", { class: "visually-hidden" }, " differs") : null,
          ),
          h("td", {}, change ? h("code", { class: "muted" }, configValue(change.default)) : null),
        );
      }),
    );
  }
}

function flatten(value, path = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value) || Object.keys(value).length === 0)
    return [{ path, value }];
  return Object.entries(value).flatMap(([name, inner]) => flatten(inner, path ? `${path}.${name}` : name));
}
