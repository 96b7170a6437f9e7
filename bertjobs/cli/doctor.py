"""`bertjobs doctor`: one page on whether the next job has what it needs."""

from dataclasses import asdict

import click

from bertjobs.cli.render import print_check, print_json
from bertjobs.settings import load_settings


@click.command()
@click.option("--quick", is_flag=True, help="Leave out what has to be asked on the nodes of Ray.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(quick: bool, as_json: bool) -> int:
    """Check all that jobs need, and name the remedy for what is wrong.

    Looks at Redis, dispatcher, Ray, storage and clocks, and starts nothing. Exit 1 when work would be lost
    or could not be done.
    """
    from bertjobs.stack.doctor.examine import (
        examine,  # what it looks at takes longer to import than other commands
    )

    checks = []
    for check in examine(load_settings(), on_nodes=not quick):
        checks.append(check)
        if not as_json:
            print_check(check)
    is_well = all(check.verdict != "broken" for check in checks)
    if as_json:
        print_json({"is_well": is_well, "checks": [asdict(check) for check in checks]})
    return 0 if is_well else 1
