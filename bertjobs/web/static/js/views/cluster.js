// The cluster: its nodes and who holds them, why jobs wait, what users may hold, and the processes behind it.

import { follow, get } from "../api.js";
import { clusterSummary, nodeCards } from "../cluster-map.js";
import { fill, h } from "../dom.js";
import { ago, count, counted, number } from "../format.js";
import { empty, failure, withCode } from "../notices.js";
import { address, jobAddress } from "../router.js";

const REFRESH_MS = 5000;
const SOON_MS = 1000;

/** Show the cluster. */
export function showCluster(container, _route, context) {
  return new ClusterPage(container, context);
}

class ClusterPage {
  constructor(container, { setLive }) {
    document.title = "Cluster · bertjobs";
    this.body = h("div", { class: "cluster-page" });
    fill(container, h("h1", {}, "Cluster"), this.body);
    this.timer = setInterval(() => this.fetch(), REFRESH_MS);
    this.soon = null;
    this.stream = follow(
      "events",
      {
        jobs: ({ counts }) => {
          const text = JSON.stringify(counts);
          if (text !== this.counts) this.soon ??= setTimeout(() => this.fetch(), SOON_MS);
          this.counts = text;
        },
        resync: () => this.fetch(),
      },
      setLive,
    );
    this.fetch();
  }

  async fetch() {
    clearTimeout(this.soon);
    this.soon = null;
    if (document.hidden) return;
    try {
      const found = await get("cluster");
      const signature = JSON.stringify(found);
      if (this.isClosed || signature === this.signature) return;
      this.signature = signature;
      fill(
        this.body,
        warnings(found),
        nodesPanel(found),
        h("div", { class: "cluster-columns" }, waitingPanel(found), usersPanel(found), membersPanel(found)),
      );
    } catch (error) {
      if (error.status !== 401) failure(this.body, error);
    }
  }

  close() {
    this.isClosed = true;
    clearInterval(this.timer);
    clearTimeout(this.soon);
    this.stream.close();
  }
}

function warnings({ ray, dispatcher, drained_by: drainedBy, drained_at: drainedAt }) {
  const texts = [
    drainedBy
      ? [
          "The queue is drained: nothing starts",
          ["by ", drainedBy, drainedAt ? [", ", ago(drainedAt)] : null],
        ]
      : null,
    dispatcher
      ? null
      : ["No dispatcher is running: nothing starts", withCode("`bertjobs cluster up` starts one.")],
    ray && !ray.reachable ? ["Ray does not answer", ray.problem ?? ""] : null,
  ].filter(Boolean);
  return texts.map(([title, rest]) =>
    h(
      "div",
      { class: "panel warning", role: "alert" },
      h("b", {}, title),
      h("span", { class: "muted" }, rest),
    ),
  );
}

function nodesPanel({ nodes }) {
  return h(
    "section",
    { class: "panel", "aria-label": "Nodes" },
    h("h2", {}, nodes.length ? clusterSummary(nodes) : "Nodes"),
    nodes.length
      ? h("div", { class: "nodes all" }, nodeCards(nodes))
      : empty(
          "No node is known",
          "The nodes appear once a dispatcher sees Ray: `bertjobs cluster up` starts both on this machine.",
        ),
  );
}

function waitingPanel({ waiting }) {
  return h(
    "section",
    { class: "panel", "aria-label": "Why jobs wait" },
    h("h2", {}, "Why jobs wait", h("a", { href: address(["queue"], { tab: "waiting" }) }, "in the queue")),
    waiting.length === 0
      ? h("p", { class: "panel-body muted" }, "No job waits")
      : h(
          "ul",
          { class: "reasons" },
          waiting.map((each) =>
            h(
              "li",
              {},
              h(
                "div",
                {},
                h("b", {}, each.reason),
                h("a", { href: jobAddress(each.example), class: "muted" }, counted(each.num_jobs, "job")),
              ),
              h("p", { class: "muted" }, each.message),
            ),
          ),
        ),
  );
}

function usersPanel({ users }) {
  return h(
    "section",
    { class: "panel", "aria-label": "Users" },
    h("h2", {}, "Users"),
    users.length === 0
      ? h("p", { class: "panel-body muted" }, "Nobody holds anything, and no quota is set")
      : h(
          "table",
          {},
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", { scope: "col" }, "User"),
              h("th", { scope: "col", class: "number" }, "GPUs held"),
              h("th", { scope: "col", class: "number" }, "Quota"),
            ),
          ),
          h(
            "tbody",
            {},
            users.map((each) =>
              h(
                "tr",
                {},
                h("td", {}, h("a", { href: address(["queue"], { user: each.user }) }, each.user)),
                h("td", { class: "number" }, number(each.held_gpus)),
                h(
                  "td",
                  { class: "number" },
                  each.max_gpus === null ? h("span", { class: "muted" }, "none") : number(each.max_gpus),
                ),
              ),
            ),
          ),
        ),
  );
}

function membersPanel({ status, dispatcher, counts }) {
  const members = Object.entries(status?.members ?? {});
  const all = Object.values(counts ?? {}).reduce((sum, value) => sum + value, 0);
  return h(
    "section",
    { class: "panel", "aria-label": "Processes" },
    h("h2", {}, "Processes"),
    h(
      "table",
      {},
      h(
        "tbody",
        {},
        members.map(([name, member]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, name),
            h(
              "td",
              {},
              h(
                "span",
                { class: `state ${member.state === "running" ? "tone-good" : "tone-warning"}` },
                member.state,
              ),
            ),
            h("td", { class: "muted" }, member.problem || (member.since ? ago(member.since) : "")),
          ),
        ),
        dispatcher
          ? h(
              "tr",
              {},
              h("th", { scope: "row" }, "leader"),
              h("td", { colspan: 2 }, h("code", {}, dispatcher)),
            )
          : null,
        h("tr", {}, h("th", { scope: "row" }, "jobs stored"), h("td", { colspan: 2 }, count(all))),
      ),
    ),
  );
}
