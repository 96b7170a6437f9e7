"""CoLA: is a sentence acceptable English. Source: Warstadt et al. 2019; GLUE's edition: Wang et al. 2019."""

from collections.abc import Iterator

from bertjobs.text.datasets.readers import BadRow, ColumnPicker, Columns, Row, rows_of, tab_separated
from bertjobs.text.datasets.task import SplitFiles, Task
from bertjobs.text.source_file import SourceFile

COLUMNS = ("source", "label", "author_mark", "sentence")
"""CoLA's files as published, and GLUE's `train.tsv` and `dev.tsv`, have these and no header."""


def read_cola(source: SourceFile, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield the rows of a CoLA file: the four columns without a header, or GLUE's `test.tsv` with one.

    The latter has an index and no labels.
    """
    records = tab_separated(source)
    for place, cells in records:
        if isinstance(cells, str):
            yield BadRow(place, cells)
        elif place == 1 and columns.text_a in cells:
            yield from rows_of(records, ColumnPicker(cells, columns, source))
            return
        else:
            picker = ColumnPicker(COLUMNS, columns, source)
            yield picker.pick(place, cells)
            yield from rows_of(records, picker)
            return


COLA = Task(
    name="cola",
    labels=("unacceptable", "acceptable"),
    label_values=("0", "1"),
    metric="mcc",
    format="cola",
    columns=Columns(text_a="sentence", text_b=None, label="label"),
    no_label=None,
)
FILES = SplitFiles(
    names={  # the published names first, then GLUE's
        "train": ("in_domain_train.tsv", "train.tsv"),
        "dev": ("in_domain_dev.tsv", "dev.tsv"),
        "in_domain_dev": ("in_domain_dev.tsv",),
        "out_of_domain_dev": ("out_of_domain_dev.tsv",),
        "test": ("test.tsv",),
    },
    folders=("", "raw", "cola_public/raw", "CoLA"),
    archive="cola_public_1.1.zip",
    read_text=read_cola,
    submission={"test": "CoLA.tsv"},
    holds_out_validation=True,  # BERT's recipe for CoLA tunes on held-out rows and reports on `dev`
)
