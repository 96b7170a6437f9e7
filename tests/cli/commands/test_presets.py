"""`bertjobs presets`: the list, and a preset as a file for --config."""

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Run = Callable[..., Result]


def test_presets_are_listed_with_what_they_are_for(run: Run) -> None:
    lines = run("presets", "list").stdout.splitlines()
    names = {tuple(line.split()[:2]) for line in lines}
    assert {("KIND", "PRESET"), ("pretrain", "wikitext-2-d2l"), ("finetune", "cola")} <= names
    documents = json.loads(run("presets", "list", "--json").stdout)
    assert len(documents) == len(lines) - 1
    cola = next(d for d in documents if (d["kind"], d["name"]) == ("finetune", "cola"))
    assert cola["help"].startswith("Fine-tune BERT base on CoLA by its published recipe")


def test_a_shown_preset_is_a_config_file(run: Run, tmp_path: Path, sample: Path) -> None:
    shown = run("presets", "show", "cola").stdout
    assert shown.startswith("# Fine-tune BERT base on CoLA")
    resolved = json.loads(run("presets", "show", "cola", "--resolved").stdout)
    assert resolved["data"]["split_seed"] == 2018
    missing = run("presets", "show", "colla")
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "Did you mean cola?" in missing.stderr
