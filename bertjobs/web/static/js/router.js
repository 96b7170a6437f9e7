// Addresses of the page: `#/queue?tab=waiting&q=snli`, `#/jobs/j-...`. Filters live in the address.

/** Return `{path: ["jobs", "j-..."], parameters: URLSearchParams}` of the current address. */
export function currentRoute() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const parts = path.split("/").filter(Boolean).map(decode);
  return { path: parts.length ? parts : ["queue"], parameters: new URLSearchParams(search) };
}

/** Return the address of a page, for links. Empty parameters are left out; lists repeat their name. */
export function address(path, parameters = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters))
    for (const each of Array.isArray(value) ? value : [value])
      if (each !== null && each !== undefined && each !== "") search.append(name, each);
  const text = search.toString();
  return `#/${path.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

export const jobAddress = (id) => address(["jobs", id]);

/** Go to a page. `replace`: without a new entry in the history, for filters that are being typed. */
export function go(target, { replace = false } = {}) {
  if (target === location.hash) return;
  if (replace) {
    history.replaceState(null, "", target);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else location.hash = target;
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
