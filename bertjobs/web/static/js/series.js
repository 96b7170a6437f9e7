// The series of a job as curves: which there are, and their points over steps or time.

const PLACE = new Set(["kind", "step", "epoch", "num_steps", "is_best", "elapsed_s", "eta_s", "at"]);
const FIRST = ["loss", "lr"];
const LAST = ["grad_norm", "examples_per_s", "tokens_per_s"];

/** Return the names of the charts for these lines: loss, lr, evaluations, speed. */
export function chartNames(lines) {
  const steps = new Set();
  const evaluations = new Set();
  for (const line of lines)
    for (const [name, value] of Object.entries(line))
      if (!PLACE.has(name) && typeof value === "number")
        (line.kind === "epoch" ? evaluations : steps).add(name);
  const names = new Set([...FIRST.filter((name) => steps.has(name) || evaluations.has(name))]);
  for (const name of evaluations) names.add(name);
  for (const name of steps) if (!LAST.includes(name)) names.add(name);
  for (const name of LAST) if (steps.has(name)) names.add(name);
  return [...names];
}

/**
 * Return one value's points of one kind of line, sorted by x. `over`: "step" or "time".
 */
export function pointsOf(lines, name, kind, over) {
  const points = [];
  for (const line of lines) {
    const x = over === "time" ? line.elapsed_s : line.step;
    if (line.kind === kind && typeof line[name] === "number" && typeof x === "number")
      points.push([x, line[name]]);
  }
  // A resumed attempt repeats steps: the later line counts.
  return [...new Map(points)].sort((a, b) => a[0] - b[0]);
}

/** Return whether the lines have times. */
export const haveTimes = (lines) => lines.some((line) => typeof line.elapsed_s === "number");

const NAMES = {
  lr: "learning rate",
  grad_norm: "gradient norm",
  examples_per_s: "examples/s",
  tokens_per_s: "tokens/s",
};

/** Return the title of a chart. */
export const titleOf = (name) => NAMES[name] ?? name.replaceAll("_", " ");
