// Act on jobs: which actions there are, the confirmation, and what became of each job.

import { post } from "./api.js";
import { fill, h } from "./dom.js";
import { counted } from "./format.js";
import { notice, withCode } from "./notices.js";

export const ACTIONS = [
  {
    name: "hold",
    label: "Hold",
    done: "held",
    one: "It stays in the queue and does not start until it is released.",
    many: "They stay in the queue and do not start until they are released.",
  },
  {
    name: "release",
    label: "Release",
    done: "released",
    one: "It takes its place in the queue again.",
    many: "They take their places in the queue again.",
  },
  {
    name: "retry",
    label: "Retry",
    done: "queued again",
    one: "It continues from its last checkpoint.",
    many: "Each continues from its last checkpoint.",
  },
  {
    name: "priority",
    label: "Priority…",
    done: "moved",
    one: "A higher number starts earlier.",
    many: "A higher number starts earlier.",
  },
  {
    name: "cancel",
    label: "Cancel",
    done: "cancelled",
    one: "Its attempt is stopped. What it has stored is kept.",
    many: "Their attempts are stopped. What they have stored is kept.",
    danger: true,
  },
];
const MAX_PRIORITY = 1000;

/** Return the names of the actions for a row of the list. The session says what each state allows. */
export function actionsFor(job, session) {
  if (session.role === "reader" || (session.role !== "operator" && job.user !== session.user)) return [];
  return session.actions[job.state] ?? [];
}

/** Ask, act, and tell what came of it. Returns the rows that changed, or null if nothing was done. */
export async function act(name, jobs) {
  const action = ACTIONS.find((each) => each.name === name);
  const answer = await confirm(action, jobs);
  if (answer === null) return null;
  let results;
  try {
    ({ results } = await post("jobs/actions", { action: name, jobs: jobs.map((job) => job.id), ...answer }));
  } catch (error) {
    notice(error.message, { tone: "bad", hint: error.hint });
    return null;
  }
  const changed = results.filter((result) => result.ok);
  const refused = results.filter((result) => !result.ok);
  if (changed.length) notice(`${counted(changed.length, "job")} ${action.done}`, { tone: "good" });
  if (refused.length === 1) notice(refused[0].error.message, { tone: "bad", hint: refused[0].error.hint });
  else if (refused.length) await showRefused(refused);
  return changed.map((result) => result.job);
}

function confirm(action, jobs) {
  const field = h("input", {
    id: "new-priority",
    type: "number",
    min: -MAX_PRIORITY,
    max: MAX_PRIORITY,
    step: 1,
    required: true,
    value: jobs.length === 1 ? jobs[0].priority : 0,
  });
  const wantsPriority = action.name === "priority";
  const verb = action.label.replace("…", "");
  const what = jobs.length === 1 ? jobs[0].name || jobs[0].id : counted(jobs.length, "job");
  return dialog({
    title: wantsPriority ? `Set the priority of ${what}` : `${verb} ${what}?`,
    body: [
      h("p", {}, jobs.length === 1 ? action.one : action.many),
      jobs.length > 1 || jobs[0].name ? jobList(jobs) : null,
      wantsPriority ? h("label", { for: "new-priority" }, "Priority") : null,
      wantsPriority ? field : null,
    ],
    confirm: wantsPriority
      ? "Set priority"
      : `${verb} ${jobs.length === 1 ? "job" : counted(jobs.length, "job")}`,
    danger: action.danger,
    value: () => (wantsPriority ? { priority: Number(field.value) } : {}),
  });
}

function jobList(jobs) {
  const shown = jobs.slice(0, 8);
  return h(
    "ul",
    { class: "dialog-jobs" },
    shown.map((job) => h("li", {}, h("code", {}, job.id), " ", job.name ?? "")),
    jobs.length > shown.length ? h("li", { class: "muted" }, `and ${jobs.length - shown.length} more`) : null,
  );
}

function showRefused(refused) {
  return dialog({
    title: `${counted(refused.length, "job")} did not change`,
    body: h(
      "ul",
      { class: "dialog-jobs" },
      refused.map((result) => h("li", {}, h("code", {}, result.id), " ", withCode(result.error.message))),
    ),
    dismiss: "Close",
  });
}

/** Show a dialog; resolves to `value()` when it is confirmed, to null when it is dismissed. */
export function dialog({
  title,
  body,
  confirm: label = null,
  dismiss = "Back",
  danger = false,
  value = () => ({}),
}) {
  return new Promise((resolve) => {
    let result = null;
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", { id: "dialog-title" }, title),
      body,
      h(
        "div",
        { class: "dialog-buttons" },
        h("button", { type: "button", onclick: () => box.close() }, dismiss),
        label ? h("button", { type: "submit", class: danger ? "danger" : "primary" }, label) : null,
      ),
    );
    form.addEventListener("submit", () => {
      result = value();
    });
    const box = h("dialog", { "aria-labelledby": "dialog-title" });
    box.addEventListener("close", () => {
      box.remove();
      resolve(result);
    });
    fill(box, form);
    document.body.append(box);
    box.showModal();
    (form.querySelector("input") ?? form.querySelector("button[type=submit]"))?.focus();
  });
}
