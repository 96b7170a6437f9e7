"""`bertjobs completion`: the script that makes a shell complete what is typed after `bertjobs`."""

import click

from bertjobs.cli.main import COMPLETE_VARIABLE
from bertjobs.cli.output.render import print_line
from bertjobs.cli.shells import SHELLS


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print the script of shell completion: job ids, presets, tasks, parameters.

    \b
    bash: eval "$(bertjobs completion bash)"          in ~/.bashrc
    zsh:  eval "$(bertjobs completion zsh)"           in ~/.zshrc, after compinit
    fish: bertjobs completion fish | source           in ~/.config/fish/config.fish
    """
    root = click.get_current_context().find_root()
    print_line(SHELLS[shell](root.command, {}, "bertjobs", COMPLETE_VARIABLE).source().rstrip())
