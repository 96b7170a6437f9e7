"""What each user of Redis has to be allowed: read from the Lua scripts and from the stores that run them."""

import re
from dataclasses import dataclass
from pathlib import Path

JOBS = Path(__file__).parents[2] / "bertjobs" / "jobs"
ACL = Path(__file__).parents[2] / "cluster" / "redis" / "users.acl"

# Who holds which store. The driver reads its job as a user does, and by nothing else of JobStore.
STORES = {
    "cli": (
        "store/job_store.py",
        "store/page_store.py",
        "store/token_store.py",
        "store/series.py",
        "quotas.py",
        "retention.py",
    ),
    "dispatcher": ("store/dispatch_store.py", "store/series.py", "retention.py", "move_series.py"),
    "driver": ("store/lease_store.py",),
}
# Modules that read directly, and run no script.
READERS = {"store/series.py", "store/token_store.py"}
# `bertjobs doctor` may be typed where the dispatcher runs; it tries its rights with a list.
SCRIPTS_BESIDE = {"cli": set[str](), "dispatcher": {"list"}, "driver": {"get"}}
# What connecting, finding out who one is, and running scripts takes.
ALWAYS = {"ping", "time", "eval", "evalsha", "script|load"}
# What `bertjobs doctor` asks, as a user of the queue and for the dispatcher.
DOCTOR = {"info", "acl|whoami", "pttl"}


@dataclass(frozen=True)
class Rights:
    """Commands, and patterns of keys."""

    commands: frozenset[str]
    keys: frozenset[str]


def needed(user: str) -> Rights:
    """Return what a user's scripts and direct calls use."""
    sources = [(JOBS / name).read_text() for name in STORES[user]]
    scripts = SCRIPTS_BESIDE[user].union(*(scripts_of(source) for source in sources))
    texts = [with_functions((JOBS / "store" / "lua" / f"{name}.lua").read_text()) for name in scripts]
    commands = {c.lower() for text in texts for c in re.findall(r"redis\.call\('(\w+)'", text)}
    commands |= {c for source in sources for c in direct_calls(source)}
    keys = {key for text in [*texts, *sources] for key in keys_of(text)}
    beside = ALWAYS if user == "driver" else ALWAYS | DOCTOR
    return Rights(frozenset(commands | beside), frozenset(keys))


def granted(user: str) -> Rights:
    """Return what users.acl gives."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", ACL.read_text(), flags=re.M))
    (line,) = [line for line in text.splitlines() if line.startswith(f"user {user} ")]
    words = line.split()
    return Rights(
        frozenset(word[1:] for word in words if word.startswith("+")),
        frozenset(word[1:] for word in words if word.startswith("~")),
    )


def scripts_of(source: str) -> set[str]:
    """Return the scripts that a store runs."""
    return set(re.findall(r'(?:\.run|_change)\(\s*"(\w+)"', source))


def direct_calls(source: str) -> set[str]:
    """Return the commands that a store sends without a script."""
    called = re.findall(r"(?:client|pipe)\.(\w+)\(", source)
    return set(called) - {"pipeline", "execute", "register_script", "close"}


def with_functions(script: str) -> str:
    """Return a script and the functions of common.lua that it reaches, without comments."""
    common = _without_comments((JOBS / "store" / "lua" / "common.lua").read_text())
    parts = re.split(r"^local function (\w+)", common, flags=re.M)
    functions = dict(zip(parts[1::2], parts[2::2], strict=True))
    text, reached = _without_comments(script), set[str]()
    while missing := {f for f in functions if f not in reached and re.search(rf"\b{f}\(", text)}:
        reached |= missing
        text += "".join(functions[name] for name in missing)
    return text


def keys_of(text: str) -> set[str]:
    """Return the keys that are named, those that are put together as patterns."""
    named = re.findall(r"""['"](bj:[a-z_:]*)""", text)
    return {f"{key}*" if key.endswith(":") else key for key in named}


def _without_comments(script: str) -> str:
    return re.sub(r"--.*", "", script)
