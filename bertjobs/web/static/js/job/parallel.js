// Parallel coordinates: one vertical axis for each parameter and the metric, one line for each trial.

import { fill, h, s } from "../dom.js";
import { configValue, number } from "../format.js";
import { themeColor } from "../theme.js";

const HEIGHT = 250;
const TOP = 34;
const BOTTOM = 16;
const SIDE = 56;

export class ParallelCoordinates {
  constructor(onLight) {
    this.onLight = onLight;
    this.element = h("div", { class: "parallel", hidden: true });
    this.lines = new Map();
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.element);
    this.redraw = () => this.draw();
    document.addEventListener("themechange", this.redraw);
  }

  show(trials, space, metric, { isSmallBetter }) {
    const paths = Object.keys(space);
    this.data = {
      trials: trials.filter((trial) => trial.value !== null),
      space,
      paths,
      metric,
      isSmallBetter,
    };
    this.element.hidden = this.data.trials.length < 2;
    this.width = null;
    this.draw();
  }

  light(number) {
    for (const [each, line] of this.lines) {
      line.classList.toggle("lit", each === number);
      line.classList.toggle("dim", number !== null && each !== number);
    }
    if (number !== null && this.lines.has(number))
      this.lines.get(number).parentNode.append(this.lines.get(number));
  }

  draw() {
    const width = this.element.clientWidth;
    if (!this.data || this.element.hidden || width === 0) return;
    const { trials, space, paths, metric, isSmallBetter } = this.data;
    const axes = [
      ...paths.map((path) =>
        axisOf(
          path,
          trials.map((trial) => trial.values[path]),
          space[path],
        ),
      ),
      axisOf(
        metric,
        trials.map((trial) => trial.value),
      ),
    ];
    // On a phone the picture is wider than the page, and scrolls.
    const inner = Math.max(width, axes.length * 92);
    const x = (index) => SIDE + (index * (inner - 2 * SIDE)) / Math.max(1, axes.length - 1);
    const y = (ratio) => TOP + (1 - ratio) * (HEIGHT - TOP - BOTTOM);
    const score = axes.at(-1);
    this.lines.clear();
    const drawn = [...trials]
      .sort((a, b) => (isSmallBetter ? b.value - a.value : a.value - b.value))
      .map((trial) => {
        const values = [...paths.map((path) => trial.values[path]), trial.value];
        const points = values.map((value, index) =>
          value === undefined || value === null
            ? null
            : `${x(index).toFixed(1)},${y(axes[index].ratio(value)).toFixed(1)}`,
        );
        const line = s(
          "polyline",
          {
            points: points.filter(Boolean).join(" "),
            stroke: shade(isSmallBetter ? 1 - score.ratio(trial.value) : score.ratio(trial.value)),
            onmouseenter: () => this.hover(trial.number),
            onmouseleave: () => this.hover(null),
          },
          s("title", {}, `trial ${trial.number}: ${metric} ${number(trial.value)}`),
        );
        this.lines.set(trial.number, line);
        return line;
      });
    fill(
      this.element,
      s(
        "svg",
        {
          width: inner,
          height: HEIGHT,
          viewBox: `0 0 ${inner} ${HEIGHT}`,
          role: "img",
          "aria-label": `${trials.length} trials by ${paths.join(", ")} and ${metric}; the table has the values`,
        },
        s("g", { class: "parallel-lines" }, drawn),
        axes.map((axis, index) => drawAxis(axis, x(index), y)),
      ),
    );
  }

  hover(number) {
    this.light(number);
    this.onLight(number);
  }

  close() {
    this.observer.disconnect();
    document.removeEventListener("themechange", this.redraw);
  }
}

// Best is blue and strong, worst is grey: lightness carries the order, so it does not depend on seeing colours.
function shade(ratio) {
  return `color-mix(in oklab, ${themeColor("--active")} ${Math.round(15 + 85 * ratio)}%, ${themeColor("--line-strong")})`;
}

// `space`: how the search samples it, for instance `loguniform:1e-5,1e-3` or `choice:16,32`.
function axisOf(path, values, space = "") {
  const given = values.filter((value) => value !== null && value !== undefined);
  const label = path.split(".").at(-1);
  const areNumbers = given.length > 0 && given.every((value) => typeof value === "number");
  if (!areNumbers || space.startsWith("choice")) {
    const options = [...new Set(given)].sort((a, b) =>
      areNumbers ? a - b : String(a).localeCompare(String(b)),
    );
    const ratio = (value) => (options.length < 2 ? 0.5 : options.indexOf(value) / (options.length - 1));
    return { label, path, ratio, ticks: options.map((value) => ({ at: ratio(value), text: short(value) })) };
  }
  const [low, high] = [Math.min(...given), Math.max(...given)];
  const isLog = space.startsWith("log") && low > 0;
  const place = isLog ? Math.log : (value) => value;
  const span = place(high) - place(low);
  const ratio = (value) => (span === 0 ? 0.5 : (place(value) - place(low)) / span);
  const middle = isLog ? Math.sqrt(low * high) : (low + high) / 2;
  const ticks = span === 0 ? [low] : [low, middle, high];
  return {
    label,
    path,
    ratio,
    ticks: ticks.map((value) => ({ at: ratio(value), text: number(Number(value.toPrecision(3))) })),
  };
}

function short(value) {
  const text = typeof value === "number" ? number(value) : configValue(value);
  return text.length > 14 ? `${text.slice(0, 13)}…` : text;
}

function drawAxis(axis, x, y) {
  return s(
    "g",
    { class: "parallel-axis" },
    s("line", { x1: x, x2: x, y1: y(0), y2: y(1) }),
    s("text", { x, y: 14, "text-anchor": "middle", class: "name" }, axis.label, s("title", {}, axis.path)),
    axis.ticks.map((tick) => s("text", { x: x + 6, y: y(tick.at) + 4 }, tick.text)),
  );
}
