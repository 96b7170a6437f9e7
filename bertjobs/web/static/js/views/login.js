// The form for the token, where neither link nor cookie opened the page.

import { post } from "../api.js";
import { fill, h } from "../dom.js";
import { withCode } from "../notices.js";

/** Ask for the token until the server takes one; `done` gets the session. */
export function showLogin(container, error, done) {
  const field = h("input", {
    id: "token",
    name: "token",
    type: "password",
    autocomplete: "current-password",
    spellcheck: "false",
    required: true,
    "aria-describedby": "token-help login-error",
  });
  const problem = h("p", { id: "login-error", class: "problem", role: "alert" });
  const button = h("button", { type: "submit", class: "primary" }, "Log in");
  const tell = (failed) =>
    fill(problem, failed.message, failed.hint ? h("small", {}, withCode(failed.hint)) : null);

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    problem.replaceChildren();
    try {
      done(await post("login", { token: field.value.trim() }));
    } catch (failed) {
      tell(failed);
      field.select();
    } finally {
      button.disabled = false;
    }
  }

  container.className = "page-login";
  fill(
    container,
    h(
      "form",
      { class: "login", onsubmit: submit },
      h("h1", {}, "bertjobs"),
      h("label", { for: "token" }, "Token"),
      field,
      problem,
      button,
      h(
        "p",
        { id: "token-help", class: "muted" },
        withCode(
          "On your own machine, open the link that `bertjobs web` prints. On a shared cluster, use the token that its operator gave you.",
        ),
      ),
    ),
  );
  if (error) tell(error);
  field.focus();
}
