"""The command line imports three of this room's modules before it knows whether it needs the others."""

import subprocess
import sys

HEAVY = ("numpy", "pyarrow", "pandas", "tokenizers", "torch", "ray")


def test_naming_tasks_and_files_imports_nothing_heavy() -> None:
    program = (
        "import sys; import bertjobs.text.datasets.tasks, bertjobs.text.datasets.splits;"
        "import bertjobs.text.corpus.files;"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
