"""The tasks of GLUE besides CoLA (`cola`), in GLUE's own files: tab-separated, with a header, quotes as text.

Metrics and which label counts as positive follow GLUE (Wang et al. 2019, table 1); labels are numbered as on
the GLUE server's baselines, and as Hugging Face numbers them.
"""

from collections.abc import Mapping

from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.task import Metric, SplitFiles, Task

_NLI = {"entailment": "entailment", "not_entailment": "not_entailment"}


def _classification(
    name: str,
    texts: tuple[str, str | None],
    labels: Mapping[str, str],
    *,
    metric: Metric,
    label: str = "label",
) -> Task:
    """Return a task; `labels` are the values in the files and the names to show."""
    return Task(
        name=name,
        labels=tuple(labels.values()),
        label_values=tuple(labels),
        metric=metric,
        format=name,
        columns=Columns(text_a=texts[0], text_b=texts[1], label=label),
        no_label="-" if name == "mnli" else None,
    )


def _files(folder: str, *, archive: str | None, by_hand: str = "", **more: tuple[str, ...]) -> SplitFiles:
    """Return the splits of a task: the same names for all, but for those given."""
    names = {split: (f"{split}.tsv",) for split in ("train", "dev", "test")}
    return SplitFiles(
        names={**names, **more},
        folders=("", folder),
        archive=archive,
        by_hand=by_hand,
        submission={"test": f"{folder}.tsv"},
    )


SST2 = _classification("sst2", ("sentence", None), {"0": "negative", "1": "positive"}, metric="accuracy")
MRPC = _classification(
    "mrpc",
    ("#1 String", "#2 String"),
    {"0": "not_equivalent", "1": "equivalent"},
    metric="f1",
    label="Quality",
)
QQP = _classification(
    "qqp",
    ("question1", "question2"),
    {"0": "not_duplicate", "1": "duplicate"},
    metric="f1",
    label="is_duplicate",
)
STSB = Task(
    name="stsb",
    type="regression",
    labels=(),
    label_values=(),
    metric="spearman",
    format="stsb",
    columns=Columns(text_a="sentence1", text_b="sentence2", label="score"),
    no_label=None,
    score_range=(0.0, 5.0),
)
MNLI = _classification(
    "mnli",
    ("sentence1", "sentence2"),
    {label: label for label in ("entailment", "neutral", "contradiction")},
    metric="accuracy",
    label="gold_label",
)
QNLI = _classification("qnli", ("question", "sentence"), _NLI, metric="accuracy")
RTE = _classification("rte", ("sentence1", "sentence2"), _NLI, metric="accuracy")
WNLI = _classification(
    "wnli", ("sentence1", "sentence2"), {"0": "not_entailment", "1": "entailment"}, metric="accuracy"
)
TASKS = (SST2, MRPC, QQP, STSB, MNLI, QNLI, RTE, WNLI)

FILES = {
    "sst2": _files("SST-2", archive="SST-2.zip"),
    # GLUE has no archive of MRPC: its script makes these files from Microsoft's, which have the same columns.
    "mrpc": _files(
        "MRPC",
        archive=None,
        by_hand="Make MRPC/train.tsv, dev.tsv and test.tsv with GLUE's download script, and give "
        "their folder (--data).",
        train=("train.tsv", "msr_paraphrase_train.txt"),
    ),
    "qqp": _files("QQP", archive="QQP-clean.zip"),
    "stsb": _files("STS-B", archive="STS-B.zip"),
    "mnli": SplitFiles(
        names={
            "train": ("train.tsv",),
            "dev": ("dev_matched.tsv",),
            "test": ("test_matched.tsv",),
            **{name: (f"{name}.tsv",) for name in ("dev_matched", "dev_mismatched")},
            **{name: (f"{name}.tsv",) for name in ("test_matched", "test_mismatched")},
            "diagnostic": ("diagnostic/diagnostic.tsv", "diagnostic.tsv", "AX.tsv"),
        },
        folders=("", "MNLI"),
        archive="MNLI.zip",
        groups={
            "dev": ("dev_matched", "dev_mismatched"),
            "test": ("test_matched", "test_mismatched"),
        },
        submission={
            "test_matched": "MNLI-m.tsv",
            "test_mismatched": "MNLI-mm.tsv",
            "diagnostic": "AX.tsv",
        },
    ),
    "qnli": _files("QNLI", archive="QNLIv2.zip"),
    "rte": _files("RTE", archive="RTE.zip"),
    "wnli": _files("WNLI", archive="WNLI.zip"),
}
