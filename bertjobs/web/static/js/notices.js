// Tell people what happened: errors in place of a page, and short notices that go away by themselves.

import { fill, h, icon } from "./dom.js";

const SHOWN_MS = 6000;

/** Show an error where something was to be shown. */
export function failure(container, error) {
  fill(
    container,
    h(
      "div",
      { class: "empty", role: "alert" },
      h("h2", {}, error.message),
      error.hint ? h("p", {}, withCode(error.hint)) : null,
    ),
  );
}

/** Show a notice at the edge of the page. `tone`: good, bad or plain. */
export function notice(text, { tone = "plain", hint = "" } = {}) {
  const close = h(
    "button",
    { type: "button", class: "icon-button", "aria-label": "Dismiss", onclick: () => toast.remove() },
    icon("cross"),
  );
  const toast = h(
    "div",
    { class: `toast tone-${tone}` },
    h("div", {}, text, hint ? h("small", {}, withCode(hint)) : null),
    close,
  );
  document.getElementById("toasts").append(toast);
  setTimeout(() => toast.remove(), tone === "bad" ? 2 * SHOWN_MS : SHOWN_MS);
}

/** Show what is missing, and the command that would make it. */
export function empty(title, ...rest) {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, title),
    rest.map((each) => (typeof each === "string" ? h("p", {}, withCode(each)) : each)),
  );
}

/** Return a text's parts; what stands between backticks is code. */
export function withCode(text) {
  return String(text)
    .split("`")
    .map((part, index) => (index % 2 ? h("code", {}, part) : part));
}
