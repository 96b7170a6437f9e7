"""Models of each type of task as a job leaves them: random weights, a vocabulary and `bertjobs.json`."""

from dataclasses import replace
from pathlib import Path

from bertjobs.config.sections import TextSection
from bertjobs.modeling import BertConfig, build_pretraining, save_pretrained
from bertjobs.runs.artefacts import Artefact
from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.task import Task
from bertjobs.text.datasets.tasks import BUILT_IN
from bertjobs.text.vocabulary import train_wordpiece
from bertjobs.training.tasks.types import task_type

CORPUS = [
    "a crane is flying over the old tower", "the driver left his crane", "who left the tower",
    "he just came back", "flying is a joy",
]  # fmt: skip
TASKS: dict[str, Task] = {
    **{name: BUILT_IN[name] for name in ("cola", "rte", "stsb", "swag", "squad")},
    "topics": Task(
        name="topics",
        type="multi_label",
        labels=("sport", "art", "war"),
        label_values=("s", "a", "w"),
        metric="f1_micro",
        format="table",
        columns=Columns(text_a="text_a", text_b=None, label="topics"),
        no_label=None,
        threshold=0.4,
    ),
    "squad_v2": replace(BUILT_IN["squad_v2"], null_threshold=0.5),
}


def write_model(folder: Path, task: Task | None, *, max_len: int = 64, has_artefact: bool = True) -> Path:
    """Write a model of a task; of None an encoder with a language-model head."""
    tokenizer = train_wordpiece(CORPUS, vocab_size=120)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    if task is None:
        save_pretrained(build_pretraining(config, seed=0), folder)
    else:
        of_type = task_type(task)
        model = of_type.build_model(config, seed=3)
        save_pretrained(model, folder, labels=of_type.class_names, problem_type=of_type.problem_type)
    tokenizer.save(folder)
    if has_artefact:
        Artefact(task=task, text=TextSection(max_len=max_len, doc_stride=8), trained_by="j-test").write(
            folder
        )
    return folder
