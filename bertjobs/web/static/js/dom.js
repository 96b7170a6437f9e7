// Build elements. Every value is inserted as a text node or a plain attribute: nothing here parses markup.

// Addresses that the page may link to: its own routes, the API, Ray's dashboard behind the login, its files.
const OWN_ADDRESS = /^(#|api\/|ray\/|static\/)/;
const PROPERTIES = new Set(["checked", "disabled", "hidden", "value", "indeterminate", "open", "readOnly"]);
const SVG = "http://www.w3.org/2000/svg";

/**
 * Return a new element. `attributes`: `onclick` and the like are listeners, `null` and `undefined` are left
 * out, the rest are attributes. `children`: elements, texts, numbers, lists of these; `null` is left out.
 */
export function h(tag, attributes, ...children) {
  return build(document.createElement(tag), attributes, children);
}

/** As `h`, for SVG. */
export function s(tag, attributes, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) element[name] = value;
    else if ((name === "href" || name === "src") && !OWN_ADDRESS.test(value))
      throw new Error(`${name} leads out of the page: ${value}`);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  put(element, children);
  return element;
}

function put(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) put(element, child);
    else element.append(child instanceof Node ? child : String(child));
  }
}

/** Replace what is in an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  put(element, children);
  return element;
}

/** Set a text, and touch the document only if it changed. */
export function setText(element, text) {
  const wanted = text ?? "";
  if (element.textContent !== wanted) element.textContent = wanted;
}

// 16 by 16, drawn with the current colour.
const PATHS = {
  play: "M5 3.2v9.6L12.8 8z",
  check: "M3 8.5l3.2 3.2L13 5",
  cross: "M4 4l8 8M12 4l-8 8",
  circle: "M8 2.8a5.2 5.2 0 100 10.4A5.2 5.2 0 008 2.8z",
  half: "M8 2.8a5.2 5.2 0 100 10.4A5.2 5.2 0 008 2.8zM8 2.8v10.4",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  again: "M12.8 8a4.8 4.8 0 11-1.6-3.6M12.9 2.2v2.9H10",
  slash: "M8 2.8a5.2 5.2 0 100 10.4A5.2 5.2 0 008 2.8zM4.4 4.4l7.2 7.2",
  clock: "M8 2.8a5.2 5.2 0 100 10.4A5.2 5.2 0 008 2.8zM8 5v3.2l2.2 1.4",
  sun: "M8 5.2a2.8 2.8 0 100 5.6 2.8 2.8 0 000-5.6zM8 1.2v1.6M8 13.2v1.6M1.2 8h1.6M13.2 8h1.6M3.2 3.2l1.1 1.1M11.7 11.7l1.1 1.1M3.2 12.8l1.1-1.1M11.7 4.3l1.1-1.1",
  moon: "M13.2 9.6A5.6 5.6 0 016.4 2.8a5.6 5.6 0 106.8 6.8z",
  monitor: "M2.2 3h11.6v7.6H2.2zM5.6 13.4h4.8",
  left: "M10 3L5 8l5 5",
  right: "M6 3l5 5-5 5",
  up: "M8 12.5v-9M4.2 7.2L8 3.4l3.8 3.8",
  down: "M8 3.5v9M4.2 8.8L8 12.6l3.8-3.8",
  download: "M8 2.6v7.6M4.8 7.2L8 10.4l3.2-3.2M2.8 13.2h10.4",
  outside: "M9.4 2.8h3.8v3.8M13 3L7.6 8.4M11.4 9.6v3.2H3.2V4.6h3.2",
  exit: "M6.4 2.8H3.2v10.4h3.2M7 8h6.2M10.8 5.4L13.4 8l-2.6 2.6",
  plus: "M8 3v10M3 8h10",
  dots: "M3.4 8h.01M8 8h.01M12.6 8h.01",
};

/** Return a small picture that is for the eye only: a text or label must stand beside it. */
export function icon(name, attributes) {
  return s(
    "svg",
    { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true", ...attributes },
    s("path", { d: PATHS[name] }),
  );
}
