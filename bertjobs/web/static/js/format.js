// Numbers, sizes and times as text.

import { h } from "./dom.js";

const WHOLE = new Intl.NumberFormat("en-US");

/** Return a duration in the two largest units: `3h 12m`. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole}s`;
  const pad = (value) => String(value).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${pad(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h ${pad(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d ${Math.floor((whole % 86400) / 3600)}h`;
}

export const count = (value) => WHOLE.format(value);

/** Return "1 job" or "3 jobs". */
export function counted(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** Return a measured number with four significant digits. */
export function number(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return WHOLE.format(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6))
    return value
      .toExponential(2)
      .replace(/\.?0+e/, "e")
      .replace("e+", "e");
  if (size >= 1000) return WHOLE.format(Math.round(value));
  return Number(value.toPrecision(4)).toString();
}

/** Return a value of a configuration as it would be typed. */
export function configValue(value) {
  if (value === null || value === undefined) return "null";
  if (typeof value === "string") return value;
  if (typeof value === "number" && value !== 0 && Math.abs(value) < 1e-3)
    return value.toExponential().replace("e+", "e");
  return JSON.stringify(value);
}

export function bytes(value) {
  if (value < 1024) return `${value} B`;
  for (const unit of ["kB", "MB", "GB"]) {
    value /= 1024;
    if (value < 1024 || unit === "GB") return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
  }
  return "";
}

/** Return what a job asks for: `2 GPUs`, or the CPU workers. */
export function resources(given) {
  if (!given) return "";
  if (given.gpus) return counted(given.gpus, "GPU");
  if (given.workers) return counted(given.workers, "worker");
  return "CPU";
}

/** Return seconds between two ISO times, or until now where the second is null. */
export function secondsBetween(from, to) {
  if (!from) return null;
  return ((to ? Date.parse(to) : Date.now()) - Date.parse(from)) / 1000;
}

/** Return a time as "5m 02s ago" that goes on counting; its tooltip has the date. */
export function ago(iso) {
  if (!iso) return h("span", {}, "");
  const element = h("time", { datetime: iso, "data-live": "ago", title: dateTime(iso) });
  refresh(element);
  return element;
}

/** Return the time since `iso` that goes on counting, as "5m 02s". */
export function since(iso) {
  if (!iso) return h("span", {}, "");
  const element = h("time", { datetime: iso, "data-live": "since", title: dateTime(iso) });
  refresh(element);
  return element;
}

export function dateTime(iso) {
  return iso ? new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }) : "";
}

export function clockTime(iso) {
  return iso ? new Date(iso).toLocaleTimeString("en-GB") : "";
}

function refresh(element) {
  const seconds = secondsBetween(element.getAttribute("datetime"), null);
  const text = element.dataset.live === "ago" && seconds >= 1 ? `${coarse(seconds)} ago` : duration(seconds);
  if (element.textContent !== text) element.textContent = text;
}

// One unit is enough for an age.
function coarse(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86400)}d`;
}

setInterval(() => {
  if (!document.hidden) document.querySelectorAll("time[data-live]").forEach(refresh);
}, 1000);
