// One job: how far it is, its curves, what happened to it, its log, its configuration and its files.

import { act, ACTIONS } from "../actions.js";
import { follow, get } from "../api.js";
import { fill, h, icon, setText } from "../dom.js";
import { ago, count, dateTime, duration, number, resources, secondsBetween, since } from "../format.js";
import { bar, progressRatio } from "../job-table.js";
import { ArtefactPanel } from "../job/artefacts.js";
import { ConfigPanel } from "../job/config.js";
import { CurvePanel } from "../job/curves.js";
import { attemptsPanel, pipelinePanel, resultsPanel, timelinePanel } from "../job/history.js";
import { LogPanel } from "../job/log.js";
import { TrialsPanel } from "../job/trials.js";
import { failure, withCode } from "../notices.js";
import { address } from "../router.js";
import { hasEnded, isWaiting, stateLabel } from "../states.js";

const REFETCH_MS = 250;
const NO_STREAM_MS = 2000;

/** Show the job that the address names. */
export function showJob(container, route, context) {
  return new JobPage(container, route.path[1], context);
}

class JobPage {
  constructor(container, id, { session, setLive }) {
    this.container = container;
    this.named = id;
    this.session = session;
    this.setLive = setLive;
    this.refetchTimer = null;
    this.open();
  }

  async open() {
    document.title = `${this.named} · bertjobs`;
    let job;
    try {
      job = await get(`jobs/${encodeURIComponent(this.named)}`);
    } catch (error) {
      if (error.status !== 401) failure(this.container, error);
      return;
    }
    if (this.isClosed) return;
    this.job = job;
    this.build();
    this.show();
    // The snapshots are fetched once the stream is open, so that nothing falls between them.
    this.stream = follow(
      `jobs/${encodeURIComponent(job.id)}/events`,
      {
        open: () => this.fetchParts(),
        job: (news) => this.onJob(news),
        timeline: () => this.refetchSoon(),
        metrics: ({ lines }) => this.curves.add(lines),
        log: (piece) => this.log.add(piece),
        end: () => this.onEnd(),
        resync: () => this.refetchAll(),
      },
      this.setLive,
    );
    // A server with too many streams refuses one: the page is shown all the same.
    this.fallback = setTimeout(() => this.fetchParts(), NO_STREAM_MS);
  }

  fetchParts() {
    clearTimeout(this.fallback);
    this.refetch();
    this.curves.fetch();
    this.log.fetch();
    this.files.fetch();
    this.trials?.fetch();
  }

  build() {
    const { job } = this;
    this.title = h("h1", {});
    this.head = h("div", { class: "job-head" });
    this.buttons = h("div", { class: "job-buttons" });
    this.progress = h("section", { class: "panel job-progress", "aria-label": "Progress" });
    this.curves = new CurvePanel(job.id);
    this.log = new LogPanel(job.id);
    this.files = new ArtefactPanel(job.id);
    this.config = new ConfigPanel(job);
    this.trials = job.kind === "tune" ? new TrialsPanel(job.id) : null;
    this.results = h("div", { hidden: true });
    this.timeline = h("div", {});
    this.attempts = h("div", {});
    this.pipeline = h("div", { hidden: true });
    fill(
      this.container,
      h("div", { class: "job-top" }, h("div", {}, this.title, this.head), this.buttons),
      this.progress,
      h(
        "div",
        { class: "job-columns" },
        h(
          "div",
          { class: "job-main" },
          this.trials?.element,
          this.curves.element,
          this.log.element,
          this.config.element,
        ),
        h(
          "div",
          { class: "job-side" },
          this.results,
          this.timeline,
          this.attempts,
          this.pipeline,
          this.files.element,
        ),
      ),
    );
  }

  onJob(news) {
    const before = this.job.state;
    Object.assign(this.job, news);
    this.show();
    this.trials?.fetchSoon();
    // What this user can do now depends on the state.
    if (this.job.state !== before) this.refetchSoon();
  }

  onEnd() {
    this.refetchSoon();
    this.setLive("live");
  }

  refetchSoon() {
    this.refetchTimer ??= setTimeout(() => this.refetch(), REFETCH_MS);
  }

  async refetch() {
    clearTimeout(this.refetchTimer);
    this.refetchTimer = null;
    try {
      this.job = await get(`jobs/${encodeURIComponent(this.job.id)}`);
    } catch {
      return; // The next event tries again; a lost login is shown by the page itself.
    }
    if (this.isClosed) return;
    this.show();
    if (hasEnded(this.job.state)) {
      this.files.fetch();
      this.trials?.fetch();
    }
  }

  refetchAll() {
    this.refetch();
    this.curves.fetch();
    this.log.fetch();
  }

  show() {
    const { job } = this;
    setText(this.title, job.name || job.id);
    document.title = `${job.name || job.id} · ${job.state.toLowerCase()} · bertjobs`;
    this.showOnce("head", [job.state, job.user, job.kind, job.priority, job.place, job.resources], () =>
      fill(this.head, headLine(job)),
    );
    this.showOnce("buttons", [job.actions, job.dashboard, job.state], () => this.showButtons());
    this.showOnce("progress", [job.state, job.progress, job.phase, job.reason, job.message, job.place], () =>
      fill(this.progress, progressOf(job)),
    );
    this.showOnce("results", job.metrics, () => resultsPanel(this.results, job));
    this.showOnce("timeline", job.events, () => timelinePanel(this.timeline, job));
    this.showOnce("attempts", job.history, () => attemptsPanel(this.attempts, job));
    this.showOnce("pipeline", [job.after, job.followers], () => pipelinePanel(this.pipeline, job));
    this.log.showAttempts(job.history);
    this.curves.tell(job);
  }

  /** Build a part again only if what it shows has changed: what has the focus stays. */
  showOnce(part, values, build) {
    this.shown ??= {};
    const signature = JSON.stringify(values) ?? "";
    if (this.shown[part] === signature) return;
    this.shown[part] = signature;
    build();
  }

  showButtons() {
    const { job } = this;
    fill(
      this.buttons,
      ACTIONS.filter((action) => job.actions?.includes(action.name)).map((action) =>
        h(
          "button",
          {
            type: "button",
            class: action.danger ? "danger-text" : null,
            "data-action": action.name,
            onclick: () => this.run(action.name),
          },
          action.label,
        ),
      ),
      h("a", { class: "button", href: address(["compare"], { job: job.id }) }, "Compare…"),
      job.dashboard
        ? h(
            "a",
            { class: "button", href: job.dashboard, target: "_blank", rel: "noopener" },
            "Ray dashboard",
            icon("outside"),
          )
        : null,
    );
  }

  async run(action) {
    const changed = await act(action, [this.job]);
    if (changed?.length) {
      Object.assign(this.job, changed[0]);
      this.show();
      this.refetchSoon();
    }
  }

  close() {
    this.isClosed = true;
    clearTimeout(this.refetchTimer);
    clearTimeout(this.fallback);
    this.stream?.close();
    this.curves?.close();
    this.log?.close();
    this.trials?.close();
  }
}

function headLine(job) {
  return [
    stateLabel(job.state),
    job.place ? h("span", { class: "muted" }, `place ${count(job.place)} in the queue`) : null,
    h("code", {}, job.id),
    h("span", {}, job.kind),
    h("span", {}, job.user),
    h("span", {}, resources(job.resources)),
    job.priority ? h("span", {}, `priority ${job.priority}`) : null,
  ];
}

function progressOf(job) {
  const ratio =
    hasEnded(job.state) && job.state === "SUCCEEDED" && progressRatio(job.progress) !== null
      ? 1
      : progressRatio(job.progress);
  const showsReason = isWaiting(job.state) || hasEnded(job.state) || ratio === null;
  return h(
    "div",
    { class: "panel-body" },
    showsReason ? reasonLine(job) : null,
    ratio === null || isWaiting(job.state)
      ? null
      : h(
          "div",
          { class: "big-bar", "data-state": job.state },
          bar(ratio),
          h("b", {}, `${Math.floor(ratio * 100)} %`),
        ),
    figures(job),
  );
}

function reasonLine(job) {
  return h(
    "p",
    { class: "job-reason" },
    job.reason ? h("b", {}, job.reason) : null,
    job.phase && !isWaiting(job.state) && !hasEnded(job.state) ? `${job.phase} ` : null,
    job.message
      ? h(
          "span",
          { class: hasEnded(job.state) && job.state !== "SUCCEEDED" ? "tone-bad" : "muted" },
          withCode(job.message),
        )
      : null,
  );
}

function figures(job) {
  const { progress } = job;
  const isActive = !isWaiting(job.state) && !hasEnded(job.state);
  const all = [
    isActive && progress?.eta_s ? ["time left", duration(progress.eta_s)] : null,
    progress?.num_steps ? ["step", `${count(progress.step)} of ${count(progress.num_steps)}`] : null,
    progress?.num_trials ? ["trials", `${count(progress.num_ended)} of ${count(progress.num_trials)}`] : null,
    progress?.epoch !== undefined && progress?.epoch !== null && progress.num_steps
      ? ["epoch", number(progress.epoch + 1)]
      : null,
    progress?.loss !== undefined ? ["loss", number(progress.loss)] : null,
    progress?.examples_per_s ? ["examples/s", number(Math.round(progress.examples_per_s))] : null,
    progress?.tokens_per_s ? ["tokens/s", number(Math.round(progress.tokens_per_s))] : null,
    ["submitted", ago(job.submitted_at)],
    job.started_at
      ? [
          "runtime",
          job.ended_at ? duration(secondsBetween(job.started_at, job.ended_at)) : since(job.started_at),
        ]
      : null,
    job.ended_at ? ["ended", h("time", { datetime: job.ended_at }, dateTime(job.ended_at))] : null,
  ];
  return h(
    "dl",
    { class: "figures-list" },
    all.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}
