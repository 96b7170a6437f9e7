"""What the modules of this room load at their import: an interpreter of its own tells."""

import subprocess
import sys

from fresh_interpreter import HEAVY, ROOT, loaded_by, modules_of


def test_no_module_of_the_stack_loads_a_heavy_library_at_its_import():
    modules = modules_of("stack")
    assert len(modules) > 10
    assert loaded_by(modules, among=HEAVY | {"redis", "psutil", "pydantic"}) == {
        "bertjobs.stack.doctor.examine": ["pydantic"]
    }


def test_the_stack_itself_loads_only_what_every_command_needs():
    others = {"redis", "psutil", "pydantic", "prometheus_client"}
    assert loaded_by(["bertjobs.stack"], among=HEAVY | others) == {}
    script = "import sys, bertjobs.stack; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "bertjobs.stack" in done.stdout.split()
    assert "urllib.request" not in done.stdout.split(), "40 ms"
