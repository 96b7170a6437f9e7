"""`bertjobs web` serves the page and its API; `bertjobs web token` makes and revokes its users' tokens."""

import webbrowser

import click

from bertjobs.cli.context import current_user, open_redis, stack_settings
from bertjobs.cli.output.render import print_json, print_line, print_note, print_table
from bertjobs.cli.params import Duration, json_option
from bertjobs.jobs.access import Role, roles
from bertjobs.jobs.job import iso
from bertjobs.jobs.store.token_store import TokenStore
from bertjobs.settings import load_settings

DEFAULT_PORT = 8266
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.group("web", invoke_without_command=True)
@click.option(
    "--host", default="127.0.0.1", metavar="HOST", help="Address to listen on.  [default: 127.0.0.1]"
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    metavar="PORT",
    help=f"Port to listen on; 0 takes any free one.  [default: {DEFAULT_PORT}]",
)
@click.option("--url", metavar="URL", help="Address of the page where a proxy is in front of this server.")
@click.option("--no-open", is_flag=True, help="Do not open the page in a browser.")
@click.pass_context
def web(ctx: click.Context, host: str, port: int, url: str | None, no_open: bool) -> None:
    """Show the queue in a browser: jobs, curves, logs, who holds which GPUs; act from there.

    Serves until Ctrl-C. On a local stack the printed link logs you in. On a shared cluster each user has a
    token, which `bertjobs web token add` makes.
    """
    if ctx.invoked_subcommand is not None:
        return
    from bertjobs.web.identity import LocalToken  # aiohttp: 250 ms
    from bertjobs.web.security import PublicAddress
    from bertjobs.web.server import serve

    public = PublicAddress.of(host=host, url=url)
    given = load_settings()
    settings = stack_settings(settings=given, needs_ray=True)
    local = LocalToken(current_user()) if given.is_embedded else None

    def announce(host: str, port: int) -> None:
        address = url or f"http://{f'[{host}]' if ':' in host else host}:{port}"
        link = address.rstrip("/") + "/" + (f"#token={local.text}" if local else "")
        print_line(link)
        if local is None:
            print_note("Users log in with their token; `bertjobs web token add NAME` makes one.")
        else:
            print_note("Whoever has this link can do everything that you can. Ctrl-C stops the server.")
        if url is None and host not in _LOOPBACK:
            print_note(
                "Tokens cross the network unencrypted: put a proxy with TLS in front of it, and give `--url`."
            )
        if not no_open and local is not None:
            webbrowser.open(link)

    serve(settings, given=given, host=host, port=port, public=public, local=local, announce=announce)


@web.group("token")
def token() -> None:
    """Make, list and revoke the tokens with which users log in."""


@token.command("add")
@click.argument("user")
@click.option(
    "--role",
    type=click.Choice([str(role) for role in Role]),
    default=str(Role.USER),
    help=f"{'; '.join(f'{role}: {what}' for role, what in roles().items())}.  [default: {Role.USER}]",
)
@click.option(
    "--expires", "expires_s", type=Duration(), default="90d", help="Valid for this long.  [default: 90d]"
)
@click.option("--never-expires", is_flag=True, help="Valid until it is revoked.")
@json_option
def add(user: str, role: str, expires_s: float, never_expires: bool, as_json: bool) -> None:
    """Make a token for USER and print it. It is shown once: only a hash of it is stored."""
    store = TokenStore(open_redis().connection)
    made, text = store.add(
        user, role=Role(role), expires_s=None if never_expires else expires_s, by=current_user()
    )
    if as_json:
        print_json({**made.to_json(), "token": text})
        return
    print_line(text)
    print_note(
        f"{made.id}: {made.role} {made.user}, valid until "
        f"{iso(made.expires_at) or f'`bertjobs web token revoke {made.id}`'}."
    )


@token.command("list")
@json_option
def list_tokens(as_json: bool) -> None:
    """List the tokens, expired ones included; not the texts, which are not stored."""
    found = TokenStore(open_redis().connection).all()
    if as_json:
        print_json([made.to_json() for made in found])
        return
    rows = [
        [made.id, made.user, str(made.role), iso(made.expires_at) or "never", made.created_by]
        for made in found
    ]
    print_table(["ID", "USER", "ROLE", "EXPIRES", "MADE BY"] if rows else None, rows)
    if not rows:
        print_note("No tokens. `bertjobs web token add NAME` makes one.")


@token.command("revoke")
@click.argument("named", metavar="ID|USER")
@json_option
def revoke(named: str, as_json: bool) -> None:
    """Revoke a token by its id, or all tokens of a user. Sessions that it started end at once."""
    found = TokenStore(open_redis().connection).revoke(named)
    if as_json:
        print_json([made.to_json() for made in found])
        return
    for made in found:
        print_line(f"{made.id}  {made.user}")
