"""Predict rows that have no label with a model of a task. No gradients, no metrics.

Rows are sorted by length, so that batches have nearly no padding. In fp32 what is predicted for a row does
not depend on the rows that share its batch, but for the last digits of its numbers.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from bertjobs.config.sections import Precision, TextSection
from bertjobs.modeling.cpu import accelerate
from bertjobs.text.datasets.examples import example_format
from bertjobs.text.datasets.task import Task
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.ragged import Int64s
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.truncation import uncut_sequence_lengths
from bertjobs.training.batches import BatchLoader
from bertjobs.training.device_feed import from_device, on_device
from bertjobs.training.distributed import current_ranks
from bertjobs.training.inference import MAX_MICROBATCH_TOKENS
from bertjobs.training.monitoring import activity
from bertjobs.training.precision import autocast, inference_dtype
from bertjobs.training.tasks.task_type import Floats, TaskModel
from bertjobs.training.tasks.types import task_type


class Predictor:
    """Predict rows with a model of a task, on the model's device."""

    def __init__(
        self,
        model: TaskModel,
        *,
        task: Task,
        text: TextSection,
        tokenizer: Tokenizer,
        batch_size: int,
        precision: Precision = "auto",
    ) -> None:
        """batch_size: most rows (of spans, windows) per batch."""
        self._model = accelerate(model).eval()
        self._type = task_type(task)
        self._format = example_format(task)
        self._text = text
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._device = next(model.parameters()).device
        self._dtype = inference_dtype(precision, self._device)

    def encode(self, rows: pa.Table) -> EncodedTable:
        """Encode rows in the columns of the task's `ExampleFormat`, without truncation."""
        return EncodedTable.from_arrow(self._format.encode(rows, self._tokenizer))

    def outputs(self, encoded: EncodedTable) -> Floats:
        """Return what the task's type keeps of each row's prediction (`TaskType.outputs`), of spans of each
        window.

        Raises: DataError: a question leaves no room for its context.
        """
        table = self._type.prepare(encoded, text=self._text)
        loader = self._loader(table)
        found: Floats | None = None
        with torch.inference_mode(), autocast(self._device, self._dtype):
            for rows, outputs_RK in from_device(self._on_device_outputs(loader)):
                if found is None:
                    found = np.empty((table.num_rows, outputs_RK.shape[1]), dtype=np.float32)
                found[rows] = outputs_RK
                activity.note()
        assert found is not None, "there is a row"
        return found

    def num_tokens(self, encoded: EncodedTable) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of each row as the model reads it, and as it would be without truncation."""
        if self._type.task.has_windows:  # nothing is cut, and a token may be in several windows
            uncut = uncut_sequence_lengths(encoded.lengths_a, encoded.lengths_b)
            return uncut, uncut
        uncut = encoded.sum_by_row(uncut_sequence_lengths(encoded.lengths_a, encoded.lengths_b))
        return self._loader(encoded).lengths, uncut

    def _on_device_outputs(self, loader: BatchLoader) -> Iterator[tuple[Int64s, Tensor]]:
        for microbatch in on_device(loader.longest_first(batch_size=self._batch_size), self._device):
            yield self._type.outputs(self._model(microbatch.inputs).float(), microbatch)

    def _loader(self, table: EncodedTable) -> BatchLoader:
        return BatchLoader(
            table,
            text=self._text,
            tokenizer=self._tokenizer,
            max_tokens=MAX_MICROBATCH_TOKENS[self._device.type],
            ranks=current_ranks(),
            vocab_size=self._model.config.vocab_size,
            targets=self._type.targets,
        )
