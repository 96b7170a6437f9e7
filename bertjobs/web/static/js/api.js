// Talk to the server: requests, and streams of events that survive a lost connection.

/** An answer that is an error. `message` and `hint` are the server's texts. */
export class ApiError extends Error {
  constructor(status, { code, message, hint }) {
    super(message);
    this.status = status;
    this.code = code;
    this.hint = hint || "";
  }
}

/** Called when a request finds that the login has ended. Set by `main.js`. */
let whenLoggedOut = () => {};
export function onLoggedOut(callback) {
  whenLoggedOut = callback;
}

export function get(path, parameters, { signal } = {}) {
  return request(path + query(parameters), { signal });
}

export function post(path, body) {
  return request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body ?? {}),
  });
}

/** Return `?a=1&b=2`; a list gives its name several times, empty values are left out. */
export function query(parameters) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters ?? {}))
    for (const each of Array.isArray(value) ? value : [value])
      if (each !== null && each !== undefined && each !== "") search.append(name, each);
  const text = search.toString();
  return text ? `?${text}` : "";
}

const RETRY_MS = 400;

// A request may be lost on its way, for instance when a laptop changes its network: what can be asked twice is.
async function send(path, options, isRepeatable) {
  try {
    return await fetch(`api/v1/${path}`, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (isRepeatable) {
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      return send(path, options, false);
    }
    throw new ApiError(0, {
      code: "Unreachable",
      message: "The server does not answer",
      hint: "Start it again with `bertjobs web`.",
    });
  }
}

async function request(path, options) {
  const response = await send(path, options, options.method !== "POST" || path === "login");
  if (response.status === 204) return null;
  let body;
  try {
    body = await response.json();
  } catch {
    body = { error: { code: "NoJson", message: `The server answered ${response.status} without JSON` } };
  }
  if (response.ok) return body;
  const error = new ApiError(
    response.status,
    body.error ?? { code: "Unknown", message: `Status ${response.status}` },
  );
  if (response.status === 401 && path !== "login") whenLoggedOut();
  throw error;
}

const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 15000;

/**
 * Follow a stream of events. `handlers`: one function for each event's name, called with its data; `open` when
 * the server has begun to note what is new, so that a snapshot fetched from then on misses nothing;
 * `resync` also after a new connection, because what was sent in between is lost. `onState("live" | "lost")`.
 * A hidden page lets go of its stream: browsers allow six connections to one server in all tabs together.
 * Returns an object with `close()`.
 */
export function follow(path, handlers, onState = () => {}) {
  let source = null;
  let timer = null;
  let delay = FIRST_RETRY_MS;
  let isClosed = false;
  let wasOpen = false;

  function open() {
    timer = null;
    if (isClosed || document.hidden || source !== null) return;
    source = new EventSource(`api/v1/${path}`);
    source.addEventListener("open", () => {
      delay = FIRST_RETRY_MS;
      onState("live");
      if (wasOpen) handlers.resync?.({});
      else handlers.open?.();
      wasOpen = true;
    });
    source.addEventListener("error", () => {
      drop();
      onState("lost");
      get("session").then(retry, (error) => error.status === 401 || retry());
    });
    for (const [name, handle] of Object.entries(handlers).filter(([name]) => name !== "open"))
      source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
    source.addEventListener("end", close);
  }
  function retry() {
    if (isClosed || timer !== null) return;
    timer = setTimeout(open, delay);
    delay = Math.min(delay * 2, LAST_RETRY_MS);
  }
  function drop() {
    source?.close();
    source = null;
  }
  function onVisibility() {
    if (document.hidden) drop();
    else open();
  }
  function close() {
    isClosed = true;
    clearTimeout(timer);
    drop();
    document.removeEventListener("visibilitychange", onVisibility);
  }
  document.addEventListener("visibilitychange", onVisibility);
  open();
  return { close };
}
