"""Every kind of job has a driver, and the driver of one kind loads no other."""

import subprocess
import sys

import pytest

from bertjobs.config.kinds import CONFIG_OF_KIND
from bertjobs.runs.kinds import driver_of


@pytest.mark.parametrize("kind", sorted(CONFIG_OF_KIND))
def test_every_kind_has_a_driver(kind):
    assert driver_of(kind).__name__ == f"run_{kind}"


def test_the_driver_of_a_finetuning_loads_no_search():
    script = (
        "import sys\n"
        "from bertjobs.runs.kinds import driver_of\n"
        "assert 'torch' not in sys.modules and 'ray' not in sys.modules\n"
        "driver_of('finetune')\n"
        "print([m for m in ('matplotlib', 'bertjobs.runs.tune.driver', 'bertjobs.runs.encode.job') "
        "if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
