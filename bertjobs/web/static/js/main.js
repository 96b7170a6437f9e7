// Start: log in with the token of the link or with the cookie, then show the page that the address names.

import { get, onLoggedOut, post } from "./api.js";
import { fill, h, icon, setText } from "./dom.js";
import { address, currentRoute, go } from "./router.js";
import { themeButton } from "./theme.js";
import { failure } from "./notices.js";
import { showLogin } from "./views/login.js";
import { showQueue } from "./views/queue.js";

// The queue is what most people open first; the other pages are loaded when they are asked for.
const PAGES = {
  queue: async () => showQueue,
  jobs: async () => (await import("./views/job.js")).showJob,
  compare: async () => (await import("./views/compare.js")).showCompare,
  cluster: async () => (await import("./views/cluster.js")).showCluster,
};
const LINKS = [
  { page: "queue", label: "Queue", belongs: ["queue", "jobs"] },
  { page: "compare", label: "Compare", belongs: ["compare"] },
  { page: "cluster", label: "Cluster", belongs: ["cluster"] },
];

const top = document.getElementById("top");
const main = document.getElementById("main");
let session = null;
let shown = null;
let shownPage = null;
let turn = 0;

async function start() {
  onLoggedOut(() => askForToken());
  addEventListener("hashchange", () => {
    if (session !== null) show();
  });
  const token = new URLSearchParams(location.hash.replace(/^#/, "")).get("token");
  if (token !== null) history.replaceState(null, "", location.pathname);
  try {
    session = token === null ? await get("session") : await post("login", { token });
  } catch (error) {
    // Without a token, 401 has led to the form already.
    if (error.status !== 401 || token !== null) askForToken(error);
    return;
  }
  enter();
}

function enter() {
  showTop();
  show();
}

function askForToken(error = null) {
  session = null;
  leave();
  document.title = "Log in · bertjobs";
  top.replaceChildren();
  showLogin(main, error, (opened) => {
    session = opened;
    main.replaceChildren();
    enter();
  });
}

function leave() {
  shown?.close();
  shown = null;
  shownPage = null;
}

/** Show the page of the address; one that is shown already only hears of its new parameters. */
async function show() {
  const route = currentRoute();
  const [page, ...rest] = route.path;
  const identity = [page, ...(page === "jobs" ? rest.slice(0, 1) : [])].join("/");
  for (const link of top.querySelectorAll("nav a"))
    if (LINKS.find((each) => each.page === link.dataset.page)?.belongs.includes(page))
      link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  if (identity === shownPage) {
    shown?.update?.(route);
    return;
  }
  leave();
  shownPage = identity;
  const mine = ++turn;
  if (PAGES[page] === undefined) {
    notFound(page);
    return;
  }
  try {
    const open = await PAGES[page]();
    if (mine !== turn) return;
    main.replaceChildren();
    main.className = `page-${page}`;
    shown = open(main, route, { session, setLive });
    scrollTo(0, 0);
  } catch (error) {
    failure(main, error);
  }
}

function notFound(page) {
  document.title = "Not found · bertjobs";
  fill(
    main,
    h(
      "div",
      { class: "empty" },
      h("h1", {}, "There is no such page"),
      h("p", {}, `#/${page} names none. `, h("a", { href: address(["queue"]) }, "Open the queue")),
    ),
  );
}

let live = null;

/** Say in the top bar whether the page follows what happens. */
function setLive(state) {
  if (live === null) return;
  live.dataset.state = state;
  setText(live.querySelector("span"), state === "live" ? "live" : "reconnecting");
}

function showTop() {
  live = h(
    "span",
    { class: "live", role: "status", "data-state": "lost" },
    h("i", {}),
    h("span", {}, "connecting"),
  );
  fill(
    top,
    h("a", { class: "brand", href: "#/queue" }, "bertjobs"),
    h(
      "nav",
      { "aria-label": "Pages" },
      LINKS.map((link) => h("a", { href: address([link.page]), "data-page": link.page }, link.label)),
    ),
    h(
      "div",
      { class: "top-right" },
      live,
      h("span", { class: "who", title: whoTitle() }, session.user, h("small", {}, session.role)),
      themeButton(),
      h(
        "button",
        {
          type: "button",
          class: "icon-button",
          id: "logout",
          title: "Log out",
          "aria-label": "Log out",
          onclick: logOut,
        },
        icon("exit"),
      ),
    ),
  );
}

function whoTitle() {
  const until = session.expires_at ? `, until ${new Date(session.expires_at).toLocaleString("en-GB")}` : "";
  return `Logged in as ${session.user} (${session.role})${until}; bertjobs ${session.version}`;
}

async function logOut() {
  try {
    await post("logout");
  } finally {
    go("#/queue", { replace: true });
    askForToken();
  }
}

// "/" goes to the filter of the page, as on many sites.
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, dialog")) return;
  const filter = main.querySelector("input[type=search]");
  if (filter === null) return;
  event.preventDefault();
  filter.focus();
  filter.select();
});

start();
