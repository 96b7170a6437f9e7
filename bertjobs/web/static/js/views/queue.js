// The queue: tabs by state, filters, a sorted page of jobs that follows what happens, actions for many.

import { follow, get } from "../api.js";
import { fill, h, icon, setText } from "../dom.js";
import { count } from "../format.js";
import { JobTable } from "../job-table.js";
import { ClusterMap } from "../cluster-map.js";
import { empty, failure } from "../notices.js";
import { address, go } from "../router.js";
import { SelectionBar } from "../selection-bar.js";
import { TABS } from "../states.js";

const PAGE_SIZE = 50;
const TYPING_MS = 150;
const REFETCH_MS = 1000;

/** Show the queue. The address has the filters: `tab`, `q`, `kind`, `user`, `pipeline`, `sort`, `page`. */
export function showQueue(container, route, context) {
  return new Queue(container, route, context);
}

class Queue {
  constructor(container, route, { session, setLive }) {
    document.title = "Queue · bertjobs";
    this.filters = readFilters(route.parameters);
    this.request = null;
    this.refetchTimer = null;
    this.lastFetch = 0;
    this.counts = "";
    this.buildControls();
    this.bar = new SelectionBar({
      session,
      onChanged: (rows) => {
        this.table.apply(rows);
        this.fetchSoon();
      },
      onCleared: () => this.table.clearSelection(),
    });
    this.table = new JobTable({
      onSort: (sort) => this.change({ sort, page: 1 }),
      onSelection: (jobs) => this.bar.show(jobs),
    });
    this.map = new ClusterMap();
    this.below = h("div", { class: "below" });
    fill(
      container,
      h("h1", { class: "visually-hidden" }, "Queue"),
      this.map.element,
      h(
        "section",
        { class: "panel queue", "aria-label": "Jobs" },
        this.controls,
        this.table.element,
        this.below,
      ),
      this.bar.element,
    );
    this.showFilters();
    this.fetch();
    this.stream = follow(
      "events",
      {
        // What happened between the first answer and the stream is in neither.
        open: () => this.fetchSoon(),
        hello: ({ counts }) => this.showCounts(counts),
        jobs: (event) => this.onJobs(event),
        resync: () => this.fetchSoon(),
      },
      setLive,
    );
  }

  buildControls() {
    this.tabs = TABS.map((tab) =>
      h(
        "a",
        { class: "tab", href: this.tabAddress(tab), "data-tab": tab.name },
        tab.label,
        h("span", { class: "count" }),
      ),
    );
    this.words = h("input", {
      type: "search",
      placeholder: "Filter by id, name, user or kind",
      "aria-label": "Filter by id, name, user or kind",
      "aria-keyshortcuts": "/",
      spellcheck: "false",
      autocomplete: "off",
      oninput: () => {
        clearTimeout(this.typing);
        this.typing = setTimeout(() => this.change({ q: this.words.value.trim(), page: 1 }), TYPING_MS);
      },
    });
    this.kind = choice("Kind", (kind) => this.change({ kind, page: 1 }));
    this.user = choice("User", (user) => this.change({ user, page: 1 }));
    this.pipeline = h("button", {
      type: "button",
      class: "chip",
      hidden: true,
      onclick: () => this.change({ pipeline: "", page: 1 }),
    });
    this.range = h("span", { class: "range", role: "status" });
    const turn = (name, label, by) =>
      h(
        "button",
        {
          type: "button",
          class: "icon-button",
          "aria-label": label,
          title: label,
          onclick: () => this.change({ page: this.filters.page + by }),
        },
        icon(name),
      );
    this.previous = turn("left", "Previous page", -1);
    this.next = turn("right", "Next page", 1);
    this.controls = h(
      "div",
      { class: "controls" },
      h("nav", { class: "tabs", "aria-label": "Jobs by state" }, this.tabs),
      h(
        "div",
        { class: "filters" },
        this.words,
        this.kind,
        this.user,
        this.pipeline,
        h("div", { class: "pager" }, this.range, this.previous, this.next),
      ),
    );
  }

  update(route) {
    this.filters = readFilters(route.parameters);
    this.showFilters();
    this.fetch();
  }

  close() {
    this.request?.abort();
    clearTimeout(this.typing);
    clearTimeout(this.refetchTimer);
    this.stream.close();
    this.map.close();
  }

  change(filters) {
    go(queueAddress({ ...this.filters, ...filters }), { replace: true });
  }

  tabAddress(tab) {
    return queueAddress({ ...this.filters, tab: tab.name, page: 1 });
  }

  showFilters() {
    const { filters } = this;
    for (const [index, tab] of TABS.entries()) {
      this.tabs[index].href = this.tabAddress(tab);
      if (tab.name === filters.tab) this.tabs[index].setAttribute("aria-current", "true");
      else this.tabs[index].removeAttribute("aria-current");
    }
    if (document.activeElement !== this.words) this.words.value = filters.q;
    this.pipeline.hidden = !filters.pipeline;
    fill(this.pipeline, `pipeline of ${filters.pipeline}`, icon("cross"));
    this.pipeline.setAttribute("aria-label", `Show all jobs, not only the pipeline of ${filters.pipeline}`);
    this.table.showSort(filters.sort);
  }

  fetchSoon() {
    if (this.refetchTimer !== null) return;
    const wait = Math.max(0, this.lastFetch + REFETCH_MS - Date.now());
    this.refetchTimer = setTimeout(() => this.fetch(), wait);
  }

  async fetch() {
    clearTimeout(this.refetchTimer);
    this.refetchTimer = null;
    this.lastFetch = Date.now();
    this.request?.abort();
    this.request = new AbortController();
    const { filters } = this;
    try {
      const answer = await get(
        "jobs",
        {
          limit: PAGE_SIZE,
          offset: (filters.page - 1) * PAGE_SIZE,
          sort: filters.sort,
          state: TABS.find((tab) => tab.name === filters.tab).states,
          kind: filters.kind,
          user: filters.user,
          q: filters.q,
          pipeline: filters.pipeline,
        },
        { signal: this.request.signal },
      );
      this.showPage(answer);
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 401) {
        this.table.show([]);
        failure(this.below, error);
      }
    }
  }

  showPage({ jobs, total, offset, counts, kinds, users }) {
    if (jobs.length === 0 && total > 0) {
      this.change({ page: Math.ceil(total / PAGE_SIZE) });
      return;
    }
    this.table.show(jobs);
    this.showCounts(counts);
    options(this.kind, "All kinds", kinds, this.filters.kind);
    options(this.user, "All users", users, this.filters.user);
    setText(
      this.range,
      total ? `${count(offset + 1)}–${count(offset + jobs.length)} of ${count(total)}` : "",
    );
    this.previous.disabled = offset === 0;
    this.next.disabled = offset + jobs.length >= total;
    fill(this.below, total === 0 ? this.nothing(counts) : null);
  }

  nothing(counts) {
    if (Object.values(counts).every((value) => value === 0))
      return empty(
        "No job has been submitted",
        "Type one of these in a terminal:",
        h("pre", {}, "bertjobs submit finetune --task snli\nbertjobs demo"),
      );
    return empty("No job matches", h("p", {}, h("a", { href: "#/queue" }, "Show all jobs")));
  }

  showCounts(counts) {
    this.counts = JSON.stringify(counts);
    const all = Object.values(counts).reduce((sum, value) => sum + value, 0);
    for (const [index, tab] of TABS.entries()) {
      const value = tab.states.length
        ? tab.states.reduce((sum, state) => sum + (counts[state] ?? 0), 0)
        : all;
      setText(this.tabs[index].querySelector(".count"), count(value));
    }
  }

  onJobs({ jobs, counts, removed, is_complete: isComplete, has_new_reasons: haveNewReasons }) {
    const areCountsNew = JSON.stringify(counts) !== this.counts;
    const areKnown = this.table.apply(jobs);
    this.showCounts(counts);
    this.bar.refresh(jobs);
    // What moves within the list is known to the server only.
    const isByPlace = ["place", "priority"].includes(this.filters.sort.replace("-", ""));
    if (areCountsNew || removed?.length || !isComplete || haveNewReasons || (isByPlace && !areKnown)) {
      this.fetchSoon();
      this.map.refreshSoon();
    }
  }
}

function readFilters(parameters) {
  const tab = parameters.get("tab");
  return {
    tab: TABS.some((each) => each.name === tab) ? tab : "all",
    q: parameters.get("q") ?? "",
    kind: parameters.get("kind") ?? "",
    user: parameters.get("user") ?? "",
    pipeline: parameters.get("pipeline") ?? "",
    sort: parameters.get("sort") ?? "-submitted_at",
    page: Math.max(1, Number.parseInt(parameters.get("page"), 10) || 1),
  };
}

function queueAddress({ tab, q, kind, user, pipeline, sort, page }) {
  return address(["queue"], {
    tab: tab === "all" ? "" : tab,
    q,
    kind,
    user,
    pipeline,
    sort: sort === "-submitted_at" ? "" : sort,
    page: page === 1 ? "" : page,
  });
}

function choice(label, onChange) {
  const select = h("select", { "aria-label": label });
  select.addEventListener("change", () => onChange(select.value));
  return select;
}

function options(select, all, values, chosen) {
  const wanted = chosen && !values.includes(chosen) ? [...values, chosen] : values;
  const signature = JSON.stringify([wanted, chosen]);
  if (select.dataset.signature === signature) return;
  select.dataset.signature = signature;
  fill(
    select,
    h("option", { value: "" }, all),
    wanted.map((value) => h("option", { value }, value)),
  );
  select.value = chosen;
}
