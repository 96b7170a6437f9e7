// Who holds which GPUs of which node, as a small map; CPUs where a node has no GPU.

import { get } from "./api.js";
import { fill, h } from "./dom.js";
import { counted, number } from "./format.js";
import { address, jobAddress } from "./router.js";

const REFRESH_MS = 10000;
const SOON_MS = 1500;

export class ClusterMap {
  constructor() {
    this.body = h("div", { class: "nodes" });
    this.title = h("span", {}, "Cluster");
    this.element = h(
      "section",
      { class: "panel cluster-map", "aria-label": "Who holds the cluster", hidden: true },
      h("h2", {}, this.title, h("a", { href: address(["cluster"]) }, "details")),
      this.body,
    );
    this.timer = setInterval(() => this.refresh(), REFRESH_MS);
    this.soon = null;
    this.refresh();
  }

  refreshSoon() {
    this.soon ??= setTimeout(() => this.refresh(), SOON_MS);
  }

  async refresh() {
    clearTimeout(this.soon);
    this.soon = null;
    if (document.hidden) return;
    try {
      this.show(await get("cluster"));
    } catch {
      this.element.hidden = true; // The list says what is wrong with the server.
    }
  }

  show({ nodes }) {
    const signature = JSON.stringify(nodes);
    if (signature === this.signature) return;
    this.signature = signature;
    this.element.hidden = nodes.length === 0;
    fill(this.title, clusterSummary(nodes));
    fill(this.body, nodeCards(nodes));
  }

  close() {
    clearInterval(this.timer);
    clearTimeout(this.soon);
    this.closed = true;
  }
}

// Nodes that Ray does not report are known by what was granted of them: their totals are null.
const unitOf = (nodes) => (nodes.some((node) => (node.gpus ?? node.held_gpus) > 0) ? "gpus" : "cpus");
const NOUNS = { gpus: "GPU", cpus: "CPU" };

/** Return "7 of 16 GPUs held on 2 nodes". */
export function clusterSummary(nodes) {
  const unit = unitOf(nodes);
  const sum = (name) => nodes.reduce((total, node) => total + (node[name] ?? 0), 0);
  const isKnown = nodes.every((node) => node[unit] !== null);
  const held = isKnown
    ? `${number(sum(`held_${unit}`))} of ${number(sum(unit))}`
    : number(sum(`held_${unit}`));
  return `${held} ${NOUNS[unit]}s held on ${counted(nodes.length, "node")}`;
}

/** Return the nodes, each with a cell for each GPU or a bar of its CPUs, and the jobs that hold them. */
export function nodeCards(nodes) {
  // A job has the same colour on all its nodes.
  const ids = [...new Set(nodes.flatMap((node) => node.jobs.map((job) => job.id)))];
  const colors = new Map(ids.map((id, index) => [id, `series-${(index % 8) + 1}`]));
  return nodes.map((node, index) => nodeCard(node, index + 1, colors));
}

function nodeCard(node, position, colors) {
  const unit = unitOf([node]);
  const jobs = node.jobs.filter((job) => job[unit] > 0);
  return h(
    "article",
    { class: "node" },
    h(
      "h3",
      { title: node.id },
      `node ${position}`,
      h(
        "span",
        { class: "muted" },
        `${number(node[`held_${unit}`])}${node[unit] === null ? "" : `/${number(node[unit])}`} ${NOUNS[unit]}`,
      ),
    ),
    unit === "gpus" ? gpuCells(node, jobs, colors) : cpuBar(node, jobs, colors),
    h(
      "ul",
      {},
      jobs.map((job) =>
        h(
          "li",
          {},
          h("i", { class: `swatch ${colors.get(job.id)}` }),
          h("a", { href: jobAddress(job.id), title: job.id }, job.name || job.id),
          h("span", { class: "muted" }, `${job.user} · ${number(job[unit])}`),
        ),
      ),
      jobs.length === 0
        ? h("li", { class: "muted" }, node[`used_${unit}`] > 0 ? "used outside bertjobs" : "free")
        : null,
    ),
  );
}

function gpuCells(node, jobs, colors) {
  const cells = [];
  let end = 0;
  const ends = jobs.map((job) => (end += job.gpus));
  for (let gpu = 0; gpu < Math.ceil(node.gpus ?? node.held_gpus); gpu++) {
    const holder = ends.findIndex((each) => each > gpu + 0.001);
    const job = jobs[holder];
    if (job)
      cells.push(
        h("a", {
          class: `cell ${colors.get(job.id)}`,
          href: jobAddress(job.id),
          title: `${job.name || job.id}, ${job.user}`,
          "aria-label": `GPU held by ${job.name || job.id}, ${job.user}`,
        }),
      );
    // Ray gave it to somebody whom the dispatcher does not know.
    else if (gpu < node.used_gpus - 0.001)
      cells.push(h("span", { class: "cell other", title: "used outside bertjobs" }));
    else cells.push(h("span", { class: "cell", title: "free" }));
  }
  return h("div", { class: "cells" }, cells);
}

function cpuBar(node, jobs, colors) {
  const parts = jobs.map((job) => {
    const part = h("a", {
      class: colors.get(job.id),
      href: jobAddress(job.id),
      title: `${job.name || job.id}, ${job.user}: ${number(job.cpus)} CPUs`,
      "aria-label": `${number(job.cpus)} CPUs held by ${job.name || job.id}`,
    });
    part.style.width = `${(100 * job.cpus) / (node.cpus ?? node.held_cpus)}%`;
    return part;
  });
  const outside = node.used_cpus - node.held_cpus;
  if (outside > 0.001) {
    const other = h("span", { class: "other", title: `${number(outside)} CPUs used outside bertjobs` });
    other.style.width = `${(100 * outside) / node.cpus}%`;
    parts.push(other);
  }
  return h("div", { class: "cpu-bar" }, parts);
}
