"""SWAG: which of four endings continues a scene. Source: Zellers et al. 2018.

The official CSV: `sent1` is the scene, `sent2` the beginning of what comes next, `ending0` to `ending3` its
endings, `label` the number of the right one. As in BERT's evaluation (Devlin et al. 2019, section 4.4), each
sequence is `sent1`, then `sent2` with one of the endings.
"""

from bertjobs.text.datasets.readers import Columns
from bertjobs.text.datasets.task import SplitFiles, Task, choice_labels

SWAG = Task(
    name="swag",
    type="multiple_choice",
    labels=choice_labels(4),
    label_values=choice_labels(4),
    metric="accuracy",
    format="swag",
    columns=Columns(
        text_a="sent1",
        text_b="sent2",
        label="label",
        endings=("ending0", "ending1", "ending2", "ending3"),
    ),
    no_label=None,
)
FILES = SplitFiles(
    names={"train": ("train.csv",), "dev": ("val.csv",), "test": ("test.csv",)},
    folders=("", "data", "swag", "swagaf/data"),
    by_hand="Take train.csv, val.csv and test.csv from the authors' repository (rowanz/swagaf), and give "
    "their folder (--data).",
)
