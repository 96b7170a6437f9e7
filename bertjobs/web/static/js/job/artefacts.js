// The files that a job left, to look at and to download.

import { get } from "../api.js";
import { fill, h, icon } from "../dom.js";
import { ago, bytes } from "../format.js";

const FEW = 14;

export class ArtefactPanel {
  constructor(id) {
    this.id = id;
    this.body = h("div", {});
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Artefacts", id: "artefacts" },
      h("h2", {}, "Artefacts"),
      this.body,
    );
  }

  async fetch() {
    try {
      const { files } = await get(`jobs/${encodeURIComponent(this.id)}/artifacts`);
      // Those of a search's trials are many: what the job itself left comes first.
      const isOfTrial = (file) => file.name.startsWith("trials/");
      this.show([...files.filter((file) => !isOfTrial(file)), ...files.filter(isOfTrial)]);
    } catch (error) {
      fill(
        this.body,
        h(
          "p",
          { class: "panel-body muted" },
          error.status === 404 ? "No file has been written" : error.message,
        ),
      );
    }
  }

  show(files, all = false) {
    const pictures = files.filter((file) => file.name.endsWith(".png"));
    const shown = all ? files : files.slice(0, FEW);
    fill(
      this.body,
      files.length === 0 ? h("p", { class: "panel-body muted" }, "No file has been written") : null,
      pictures.length
        ? h(
            "div",
            { class: "pictures" },
            pictures
              .slice(0, 6)
              .map((file) =>
                h(
                  "a",
                  { href: this.addressOf(file), download: true, title: file.name },
                  h("img", { src: this.addressOf(file), alt: file.name, loading: "lazy" }),
                ),
              ),
          )
        : null,
      h(
        "ul",
        { class: "files" },
        shown.map((file) =>
          h(
            "li",
            {},
            h(
              "a",
              { href: this.addressOf(file), download: true },
              icon("download"),
              h("span", {}, file.name),
            ),
            h("span", { class: "muted" }, bytes(file.size_bytes)),
            h("span", { class: "muted" }, ago(file.modified_at)),
          ),
        ),
      ),
      shown.length < files.length
        ? h(
            "button",
            { type: "button", class: "plain", onclick: () => this.show(files, true) },
            `Show all ${files.length}`,
          )
        : null,
    );
  }

  addressOf(file) {
    return `api/v1/jobs/${encodeURIComponent(this.id)}/artifacts/${file.name.split("/").map(encodeURIComponent).join("/")}`;
  }
}
