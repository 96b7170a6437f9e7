"""How bash, zsh and fish ask for completions, and what they are answered.

Imported where a shell asks, and by `bertjobs completion`. Click's own scripts, with what they lack: in bash
the help beside several candidates, words with `=` and `:`, and no blank after a name that a value follows; in
all of them `--flag=value`.
"""

import os
from textwrap import shorten
from typing import ClassVar

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            file,*) compopt -o default ;;
            nospace,*) compopt -o nospace ;;
            plain,*) COMPREPLY+=("${line#plain,}") ;;
        esac
    done < <(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_TYPE="$COMP_TYPE" \\
        COMP_WORDBREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_HELP_WIDTH = 70
_PLAIN_TAB = ("9", "63", "33", "64")
"""`COMP_TYPE` where bash lists candidates; other types insert one, which must then be the word alone."""


_ZSH_DESCRIBE = "_describe -V unsorted completions_with_descriptions -U"
_ZSH_DESCRIBE_OURS = f"""\
if [[ $completions_with_descriptions[1] == *=:* ]]; then
            {_ZSH_DESCRIBE} -S ''
        else
            {_ZSH_DESCRIBE}
        fi"""


class OurBash(BashComplete):
    """Bash: knows what `=` and `:` do to its words, and shows the help of several candidates beside them."""

    source_template: ClassVar[str] = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """Split the line up to the cursor; bash's own words are cut at `=` and `:` as well."""
        line = os.fsencode(os.environ["COMP_LINE"])[: int(os.environ["COMP_POINT"])].decode(errors="replace")
        words = split_arg_string(line)[1:]
        return (words, "") if not words or line[-1:].isspace() else (words[:-1], words[-1])

    def complete(self) -> str:
        args, incomplete = self.get_completion_args()
        items = self.get_completions(args, incomplete)
        typed = _value_of(incomplete)
        breaks = [c for c in "=:" if c in os.environ.get("COMP_WORDBREAKS", "=:")]
        num_cut = max((typed.rfind(c) + 1 for c in breaks), default=0)
        plain = [item for item in items if item.type == "plain"]
        is_listed = len(plain) > 1 and os.environ.get("COMP_TYPE", "9") in _PLAIN_TAB
        width = max((len(item.value) for item in plain), default=0) - num_cut
        lines = [f"{item.type}," for item in items if item.type != "plain"]
        if plain and all(_awaits_value(item) for item in plain):
            lines.append("nospace,")
        for item in plain:
            word = item.value[num_cut:]
            note = (
                f"  ({shorten(item.help, _HELP_WIDTH, placeholder='...')})" if is_listed and item.help else ""
            )
            lines.append(f"plain,{word.ljust(width) if note else word}{note}")
        return "\n".join(lines)


class _WholeWord(ShellComplete):
    """Zsh and fish replace the whole word, of which click completes only what follows `--flag=`."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        flag = incomplete.removesuffix(_value_of(incomplete))
        items = super().get_completions(args, incomplete)
        for item in items:
            if item.type == "plain":
                item.value = flag + item.value
        return items


class OurZsh(_WholeWord, ZshComplete):
    """Zsh."""

    source_template: ClassVar[str] = ZshComplete.source_template.replace(_ZSH_DESCRIBE, _ZSH_DESCRIBE_OURS)


class OurFish(_WholeWord, FishComplete):
    """Fish."""


SHELLS = {"bash": OurBash, "zsh": OurZsh, "fish": OurFish}


def register() -> None:
    """Make these what click answers shells with."""
    for name, shell in SHELLS.items():
        add_completion_class(shell, name)


def _value_of(incomplete: str) -> str:
    """Return what follows `--flag=`, or the whole word."""
    is_flag = incomplete.startswith("-") and "=" in incomplete
    return incomplete.partition("=")[2] if is_flag else incomplete


def _awaits_value(item: CompletionItem) -> bool:
    return str(item.value).endswith(("=", ":"))
