// The tail of a log, which follows what is written; earlier parts on request.

import { get } from "../api.js";
import { fill, h } from "../dom.js";
import { bytes } from "../format.js";

const PIECE_BYTES = 65536;
const MAX_SHOWN_CHARS = 2_000_000;
const NEAR_END_PX = 24;

export class LogPanel {
  constructor(id) {
    this.id = id;
    this.attempt = null;
    this.first = 0;
    this.next = 0;
    this.waiting = [];
    this.isFetched = false;
    this.follows = h("input", { type: "checkbox", checked: true, onchange: () => this.scroll() });
    this.attempts = h("select", { "aria-label": "Attempt", hidden: true });
    this.attempts.addEventListener("change", () => {
      this.chosen = Number(this.attempts.value);
      this.fetch();
    });
    this.earlier = h(
      "button",
      { type: "button", class: "plain", hidden: true, onclick: () => this.fetchEarlier() },
      "Load earlier lines",
    );
    this.text = h("pre", { class: "log", tabindex: 0, "aria-label": "Log" });
    this.size = h("span", { class: "muted" });
    this.text.addEventListener("scroll", () => {
      // Who scrolls up wants to read; at the end again it follows again.
      if (!this.isScrolling) this.follows.checked = this.isAtEnd();
    });
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Log", id: "log" },
      h(
        "header",
        {},
        h("h2", {}, "Log"),
        this.attempts,
        this.size,
        h(
          "div",
          { class: "log-tools" },
          this.earlier,
          h("label", { class: "check" }, this.follows, "Follow"),
        ),
      ),
      this.text,
    );
  }

  showAttempts(history) {
    const numbers = history.map((attempt) => attempt.number);
    this.latest = numbers.at(-1) ?? null;
    this.attempts.hidden = numbers.length < 2;
    if (this.attempts.options.length === numbers.length) return;
    fill(
      this.attempts,
      numbers.map((value) => h("option", { value }, `attempt ${value}`)),
    );
    this.attempts.value = String(this.chosen ?? this.latest ?? "");
  }

  async fetch() {
    this.isFetched = false;
    const wanted = (this.wanted = {});
    try {
      const piece = await get(this.path, { attempt: this.chosen, offset: -PIECE_BYTES, limit: PIECE_BYTES });
      if (this.wanted !== wanted) return;
      this.attempt = piece.attempt;
      this.first = piece.offset;
      this.next = piece.next_offset;
      this.put(piece.text);
      this.tell(piece);
    } catch (error) {
      if (this.wanted !== wanted || error.status === 401) return;
      this.put("");
      this.text.dataset.empty = error.status === 404 ? "No line has been written" : error.message;
    }
    this.isFetched = true;
    for (const piece of this.waiting.splice(0)) this.add(piece);
  }

  /** Add what was written since; overlaps with what is shown are left out. */
  add(piece) {
    if (!this.isFetched) {
      this.waiting.push(piece);
      return;
    }
    if (this.chosen !== undefined && piece.attempt !== this.chosen) return;
    if (this.attempt !== piece.attempt) {
      this.attempt = piece.attempt;
      this.first = this.next = piece.offset;
      this.put("");
    }
    if (piece.offset < this.next) return;
    if (piece.offset > this.next) {
      this.fetch(); // Something is missing in between.
      return;
    }
    this.next = piece.next_offset;
    this.text.append(piece.text);
    if (this.text.childNodes.length > 200) this.put(this.text.textContent.slice(-MAX_SHOWN_CHARS));
    this.tell({ size_bytes: piece.next_offset });
    this.scroll();
  }

  async fetchEarlier() {
    const limit = Math.min(PIECE_BYTES, this.first);
    const piece = await get(this.path, { attempt: this.attempt, offset: this.first - limit, limit });
    const fromEnd = this.text.scrollHeight - this.text.scrollTop;
    this.first = piece.offset;
    this.text.prepend(piece.text);
    this.follows.checked = false;
    this.text.scrollTop = this.text.scrollHeight - fromEnd;
    this.tell({ size_bytes: this.next });
  }

  get path() {
    return `jobs/${encodeURIComponent(this.id)}/log`;
  }

  put(text) {
    this.text.textContent = text;
    this.text.dataset.empty = "No line has been written";
    this.scroll();
  }

  tell({ size_bytes: size }) {
    this.size.textContent = size ? bytes(size) : "";
    this.earlier.hidden = this.first === 0;
  }

  isAtEnd() {
    return this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < NEAR_END_PX;
  }

  scroll() {
    if (!this.follows.checked) return;
    this.isScrolling = true;
    this.text.scrollTop = this.text.scrollHeight;
    requestAnimationFrame(() => {
      this.isScrolling = false;
    });
  }

  close() {
    this.wanted = null;
  }
}
