"""The parameters of predicting rows with a fine-tuned model, and the rules over several of them."""

from bertjobs.config.encode import ENCODE_CONFLICTS, EncodeTrainSection
from bertjobs.config.finetune import EvalTextSection
from bertjobs.config.rules import Conflict
from bertjobs.config.sections import Count, JobConfig, OnBadRow, Section, Text


class PredictModelSection(Section):
    source: Text
    """Model that predicts: a job id, a hub name, or the folder of a fine-tuned model."""


class PredictTaskSection(Section):
    name: Text | None = None
    """Task whose columns and labels the rows have, by name or as a task file; default: that of the model. A
    model that bertjobs did not train reads `text_a` and `text_b`, or `question` and `context`."""
    null_threshold: float | None = None
    """Null odds, in logits, above which a question counts as unanswered (SQuAD v2.0); default: the model's
    own."""


class RowsSection(Section):
    path: Text
    """File, folder or glob of rows to predict: CSV, TSV, JSON lines or Parquet."""
    on_bad_row: OnBadRow = "error"
    """What to do with a row that cannot be read: stop with its file and line (`error`), or leave it out and
    count it (`skip`)."""
    limit: Count | None = None
    """Predict only the first N rows, for a quick test; default: all."""


class PredictConfig(JobConfig):
    model: PredictModelSection
    task: PredictTaskSection = PredictTaskSection()
    data: RowsSection
    text: EvalTextSection = EvalTextSection()
    train: EncodeTrainSection = EncodeTrainSection()


PREDICT_CONFLICTS: tuple[Conflict, ...] = ENCODE_CONFLICTS
