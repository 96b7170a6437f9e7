"""SNLI: does the first sentence entail the second, contradict it, or neither. Source: Bowman et al. 2015."""

from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.task import SplitFiles, Task

SNLI = Task(
    name="snli",
    labels=("entailment", "neutral", "contradiction"),
    label_values=("entailment", "neutral", "contradiction"),
    metric="accuracy",
    format="snli",
    columns=Columns(text_a="sentence1", text_b="sentence2", label="gold_label"),
    no_label="-",
)
FILES = SplitFiles(
    names={split: (f"snli_1.0_{split}.jsonl", f"snli_1.0_{split}.txt") for split in ("train", "dev", "test")},
    folders=("", "snli_1.0"),
    archive="snli_1.0.zip",
)
