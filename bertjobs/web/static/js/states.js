// The states of a job as people see them: a word, a picture and a colour that does not stand alone.

import { h, icon } from "./dom.js";

export const STATES = {
  HELD: { label: "held", tone: "held", icon: "pause" },
  QUEUED: { label: "queued", tone: "waiting", icon: "circle" },
  RETRYING: { label: "retrying", tone: "warning", icon: "again" },
  STARTING: { label: "starting", tone: "active", icon: "half" },
  RUNNING: { label: "running", tone: "active", icon: "play" },
  CANCELLING: { label: "cancelling", tone: "off", icon: "slash" },
  SUCCEEDED: { label: "succeeded", tone: "good", icon: "check" },
  FAILED: { label: "failed", tone: "bad", icon: "cross" },
  CANCELLED: { label: "cancelled", tone: "off", icon: "slash" },
  TIMED_OUT: { label: "timed out", tone: "warning", icon: "clock" },
};

/** The tabs above the queue. Each state belongs to one of them. */
export const TABS = [
  { name: "all", label: "All", states: [] },
  { name: "active", label: "Active", states: ["STARTING", "RUNNING", "CANCELLING"] },
  { name: "waiting", label: "Waiting", states: ["QUEUED", "RETRYING"] },
  { name: "held", label: "Held", states: ["HELD"] },
  { name: "succeeded", label: "Succeeded", states: ["SUCCEEDED"] },
  { name: "failed", label: "Failed", states: ["FAILED", "TIMED_OUT"] },
  { name: "cancelled", label: "Cancelled", states: ["CANCELLED"] },
];

const WAITING = new Set(["HELD", "QUEUED", "RETRYING"]);
const ENDED = new Set(["SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT"]);

export const isWaiting = (state) => WAITING.has(state);
export const hasEnded = (state) => ENDED.has(state);

/** Return the state as a small label. */
export function stateLabel(state) {
  const known = STATES[state] ?? { label: String(state).toLowerCase(), tone: "off", icon: "circle" };
  return h("span", { class: `state tone-${known.tone}` }, icon(known.icon), known.label);
}
