// Line charts with uPlot: one or several curves over steps or time, redrawn as points arrive.

import { fill, h } from "./dom.js";
import { duration, number } from "./format.js";
import { seriesColor, themeColor } from "./theme.js";

let loading = null;

/** Load the vendored library once; pages without curves do without it. */
function uPlotLibrary() {
  loading ??= new Promise((resolve, reject) => {
    const script = h("script", { src: "static/vendor/uplot/uPlot.iife.min.js" });
    script.addEventListener("load", () => resolve(globalThis.uPlot));
    script.addEventListener("error", () => reject(new Error("The plotting library could not be loaded")));
    document.head.append(h("link", { rel: "stylesheet", href: "static/vendor/uplot/uPlot.min.css" }), script);
  });
  return loading;
}

const HEIGHT = 190;

/**
 * A chart. `hasNames`: whether the legend names the curves, or only shows their colours and values.
 * `set(curves)`: `[{label, points: [[x, y], ...], color, hasDots}]`, each sorted by x.
 * `isTime`: x is seconds.
 */
export class Chart {
  constructor(title, { height = HEIGHT, hasNames = true } = {}) {
    this.height = height;
    this.hasNames = hasNames;
    this.isTime = false;
    this.curves = [];
    this.plot = null;
    this.legend = h("div", { class: "chart-legend" });
    this.place = h("div", { class: "chart-place" });
    this.place.style.minHeight = `${height}px`;
    this.element = h(
      "figure",
      { class: "chart", "data-chart": title },
      h("figcaption", {}, h("b", {}, title), this.legend),
      this.place,
    );
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.place);
    this.redraw = () => this.draw();
    document.addEventListener("themechange", this.redraw);
  }

  close() {
    this.observer.disconnect();
    document.removeEventListener("themechange", this.redraw);
    this.plot?.destroy();
    this.plot = null;
    this.isClosed = true;
  }

  set(curves, { isTime = false } = {}) {
    const isSame =
      this.plot !== null &&
      isTime === this.isTime &&
      curves.length === this.curves.length &&
      curves.every((curve, index) => curve.label === this.curves[index].label);
    this.curves = curves;
    this.isTime = isTime;
    // For tests, and for people who cannot see the picture.
    this.element.dataset.points = curves.reduce((sum, curve) => sum + curve.points.length, 0);
    this.place.setAttribute("role", "img");
    this.place.setAttribute("aria-label", describe(this.element.dataset.chart, curves));
    if (isSame) {
      this.plot.setData(align(curves));
      this.showValues();
    } else this.draw();
  }

  resize() {
    const width = this.place.clientWidth;
    if (this.plot !== null && width > 0 && width !== this.plot.width)
      this.plot.setSize({ width, height: this.height });
  }

  async draw() {
    if (this.curves.length === 0) return;
    const library = await uPlotLibrary();
    if (this.isClosed) return;
    this.plot?.destroy();
    fill(this.place);
    this.plot = new library(this.options(library), align(this.curves), this.place);
    this.showValues();
  }

  options(library) {
    const text = themeColor("--muted");
    const grid = { stroke: themeColor("--line"), width: 1 };
    const axis = { stroke: text, grid, ticks: { show: false }, font: "11px system-ui, sans-serif", gap: 4 };
    return {
      width: this.place.clientWidth || 300,
      height: this.height,
      padding: [8, 16, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: true, y: false } },
      scales: { x: { time: false } },
      axes: [
        {
          ...axis,
          size: 24,
          values: (_, splits) => splits.map((value) => (this.isTime ? duration(value) : number(value))),
        },
        {
          ...axis,
          size: 54,
          values: (_, splits) => splits.map((value) => (value === null ? "" : number(value))),
        },
      ],
      series: [
        {},
        ...this.curves.map((curve, index) => ({
          label: curve.label,
          stroke: seriesColor(curve.color ?? index),
          width: 1.6,
          spanGaps: true,
          paths: library.paths.linear(),
          points: { show: curve.hasDots ?? false, size: 5 },
        })),
      ],
      hooks: { setCursor: [() => this.showValues()] },
    };
  }

  /** Show the values under the cursor, or the last ones. */
  showValues() {
    const index = this.plot?.cursor.idx;
    const at = index === null || index === undefined ? null : this.plot.data[0][index];
    fill(
      this.legend,
      at === null ? null : h("span", { class: "muted" }, this.isTime ? duration(at) : `step ${number(at)}`),
      this.curves.map((curve, position) => {
        const value = at === null ? curve.points.at(-1)?.[1] : nearest(curve.points, at);
        return h(
          "span",
          { title: curve.label },
          h("i", { class: `swatch series-${((curve.color ?? position) % 8) + 1}` }),
          this.hasNames && this.curves.length > 1 ? `${curve.label} ` : null,
          h("b", {}, number(value)),
        );
      }),
    );
  }
}

function describe(title, curves) {
  const ends = curves.map((curve) => `${curve.label} ${number(curve.points.at(-1)?.[1])}`);
  return `${title}: ${ends.join(", ")}`;
}

/** Return the value of the last point at or before x; that of the first where there is none. */
function nearest(points, x) {
  let [low, high] = [0, points.length - 1];
  if (high < 0) return null;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (points[middle][0] <= x) low = middle;
    else high = middle - 1;
  }
  return points[low][1];
}

/** Return uPlot's form of the data: all x values, and for each curve its value there or null. */
function align(curves) {
  const all = [...new Set(curves.flatMap((curve) => curve.points.map(([x]) => x)))].sort((a, b) => a - b);
  const columns = curves.map((curve) => {
    const values = new Map(curve.points);
    return all.map((x) => values.get(x) ?? null);
  });
  return [all, ...columns];
}
