// A classic script that blocks the first paint, so that a chosen theme never flashes in the other one.
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("bertjobs-theme");
  } catch {
    // Storage may be forbidden: the system's theme is used.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
