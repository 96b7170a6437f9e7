// The colour theme: the system's, or the one that was chosen with the switch.

import { h, icon } from "./dom.js";

const KEY = "bertjobs-theme";
const CHOICES = [
  { name: "system", label: "Theme of the system", icon: "monitor" },
  { name: "light", label: "Light theme", icon: "sun" },
  { name: "dark", label: "Dark theme", icon: "moon" },
];

/** Return the button that goes through the themes. Charts redraw on the event `themechange` of `document`. */
export function themeButton() {
  const button = h("button", { type: "button", class: "icon-button", id: "theme" });
  const show = () => {
    const choice = CHOICES.find((each) => each.name === current());
    button.replaceChildren(icon(choice.icon));
    button.title = choice.label;
    button.setAttribute("aria-label", `${choice.label}; change`);
  };
  button.addEventListener("click", () => {
    const at = CHOICES.findIndex((each) => each.name === current());
    choose(CHOICES[(at + 1) % CHOICES.length].name);
    show();
  });
  show();
  return button;
}

function current() {
  return document.documentElement.dataset.theme ?? "system";
}

function choose(name) {
  const root = document.documentElement;
  if (name === "system") delete root.dataset.theme;
  else root.dataset.theme = name;
  try {
    if (name === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, name);
  } catch {
    // Storage may be forbidden: the choice lasts until the page is left.
  }
  document.dispatchEvent(new Event("themechange"));
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  document.dispatchEvent(new Event("themechange")),
);

let probe = null;

/** Return a colour of the theme as canvas and SVG attributes take it. `name`: a custom property. */
export function themeColor(name) {
  if (probe === null) {
    probe = h("span", { hidden: true });
    document.body.append(probe);
  }
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

/** Return the colour of the n-th of several curves; after eight they repeat. */
export function seriesColor(index) {
  return themeColor(`--series-${(index % 8) + 1}`);
}
