// What happened to a job: results, timeline, attempts, and the jobs before and after it.

import { get } from "../api.js";
import { fill, h } from "../dom.js";
import { ago, clockTime, dateTime, duration, number, secondsBetween } from "../format.js";
import { withCode } from "../notices.js";
import { address, jobAddress } from "../router.js";
import { stateLabel } from "../states.js";

function panel(container, title, ...children) {
  container.hidden = false;
  container.className = "panel";
  fill(container, h("h2", {}, title), children);
}

/** Show the numbers with which the job ended, and those of each class where it has some. */
export function resultsPanel(container, { metrics }) {
  const entries = Object.entries(metrics ?? {});
  const plain = entries.filter(([, value]) => value === null || typeof value !== "object");
  const tables = entries.filter(
    ([, value]) => Array.isArray(value) && value.length && typeof value[0] === "object",
  );
  container.hidden = plain.length + tables.length === 0;
  if (container.hidden) return;
  panel(
    container,
    "Results",
    h(
      "table",
      { class: "pairs" },
      h(
        "tbody",
        {},
        plain.map(([name, value]) =>
          h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "number" }, number(value))),
        ),
      ),
    ),
    tables.map(([name, rows]) => metricTable(name, rows)),
  );
}

function metricTable(name, rows) {
  const columns = Object.keys(rows[0]).filter((column) => typeof rows[0][column] !== "object");
  const isNumber = (column) => typeof rows[0][column] === "number";
  return h(
    "div",
    { class: "table-wrap" },
    h(
      "table",
      { "aria-label": name.replaceAll("_", " ") },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          columns.map((column) =>
            h("th", { scope: "col", class: isNumber(column) ? "number" : null }, column),
          ),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            columns.map((column) =>
              h(
                "td",
                { class: isNumber(column) ? "number" : null },
                typeof row[column] === "number" && !Number.isInteger(row[column])
                  ? row[column].toFixed(3)
                  : number(row[column]),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}

/** Show the states in order, the latest first. */
export function timelinePanel(container, { events }) {
  panel(
    container,
    "Timeline",
    h(
      "ol",
      { class: "timeline" },
      [...events]
        .reverse()
        .map((event) =>
          h(
            "li",
            {},
            h(
              "div",
              {},
              stateLabel(event.state),
              event.attempt > 1 ? h("span", { class: "muted" }, `attempt ${event.attempt}`) : null,
              h("time", { datetime: event.at, title: dateTime(event.at) }, clockTime(event.at)),
            ),
            event.reason || event.message
              ? h(
                  "p",
                  {},
                  event.reason ? h("b", {}, event.reason, " ") : null,
                  h("span", { class: "muted" }, withCode(event.message ?? "")),
                )
              : null,
          ),
        ),
    ),
  );
}

/** Show the attempts: how long, where, and how each ended. */
export function attemptsPanel(container, { history }) {
  container.hidden = history.length === 0;
  if (container.hidden) return;
  panel(
    container,
    "Attempts",
    h(
      "ol",
      { class: "attempts" },
      [...history]
        .reverse()
        .map((attempt) =>
          h(
            "li",
            {},
            h(
              "div",
              {},
              h("b", {}, `#${attempt.number}`),
              attempt.outcome
                ? stateLabel(attempt.outcome)
                : h("span", { class: "tone-active" }, "under way"),
              h("span", { class: "muted" }, duration(secondsBetween(attempt.claimed_at, attempt.ended_at))),
            ),
            attempt.reason
              ? h(
                  "p",
                  {},
                  h("b", {}, attempt.reason, " "),
                  h("span", { class: "muted" }, withCode(attempt.message ?? "")),
                )
              : null,
            h(
              "p",
              { class: "muted" },
              "started ",
              ago(attempt.claimed_at),
              attempt.nodes.length
                ? [
                    ` on ${attempt.nodes.length === 1 ? "node" : "nodes"} `,
                    h("span", { class: "mono" }, attempt.nodes.map((node) => node.slice(0, 8)).join(", ")),
                  ]
                : null,
            ),
          ),
        ),
    ),
  );
}

/** Show which jobs come before and after, with their states. */
export async function pipelinePanel(container, job) {
  if (!job.after?.length && !job.followers?.length) {
    container.hidden = true;
    return;
  }
  const link = h("a", { href: address(["queue"], { pipeline: job.id }) }, "in the queue");
  const show = (known) => {
    const items = (ids) =>
      h(
        "ul",
        { class: "neighbours" },
        ids.map((id) => neighbour(id, known.get(id))),
      );
    panel(
      container,
      "Pipeline",
      h(
        "div",
        { class: "panel-body" },
        job.after?.length ? [h("h3", {}, "Starts after"), items(job.after)] : null,
        job.followers?.length ? [h("h3", {}, "Followed by"), items(job.followers)] : null,
      ),
    );
    container.querySelector("h2").append(link);
  };
  show(new Map());
  try {
    const { jobs } = await get(`jobs/${encodeURIComponent(job.id)}/pipeline`);
    show(new Map(jobs.map((each) => [each.id, each])));
  } catch {
    // The ids alone are shown.
  }
}

function neighbour(id, known) {
  return h(
    "li",
    {},
    known ? stateLabel(known.state) : null,
    h("a", { href: jobAddress(id) }, known?.name || id),
  );
}
