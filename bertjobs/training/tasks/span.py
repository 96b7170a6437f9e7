"""Spans: an answer is a piece of a context, found by its first and its last token, as in SQuAD.

A context that is too long goes through the model as several windows, so a row of a batch is a window; what is
evaluated and predicted is a question. Of each window the best starts and ends are kept, which every rank
sends to the others; all of them then choose the same answers.

Source: Devlin et al. 2019 (BERT), sections 4.2 and 4.3; Rajpurkar et al. 2016 and 2018 (SQuAD).
Shape suffixes: B: windows of a microbatch. L: tokens of the longest. W: windows of a table. K: numbers kept
per window. E: examples (questions).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from bertjobs.config.finetune import ModelSection
from bertjobs.config.sections import TextSection
from bertjobs.modeling.build import build_with_head
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.span_head import BertForQuestionAnswering, span_loss_sum
from bertjobs.text import ragged
from bertjobs.text.batching import Batch
from bertjobs.text.datasets.task import Task
from bertjobs.text.encoding import EncodedTable
from bertjobs.text.ragged import Int64s
from bertjobs.text.spans.answers import QuestionAnswers, WindowScores, choose_answers, num_packed
from bertjobs.text.spans.squad_metrics import ScoreSum, SquadScores, squad_scores
from bertjobs.text.spans.windows import WindowTable, cut_windows
from bertjobs.training.batches import Microbatch
from bertjobs.training.distributed import Ranks
from bertjobs.training.tasks.classification import head_arguments
from bertjobs.training.tasks.task_type import Floats, RankedValue, TaskType

PREDICTIONS, NBEST, NULL_ODDS, SCORES = "predictions.json", "nbest.json", "null_odds.json", "scores.json"
"""The files that SQuAD's official scripts write and read; scores in percent."""


@dataclass(frozen=True, kw_only=True)
class SpanMetrics:
    """The result of an evaluation, as shares; None where there is nothing to count."""

    num_examples: int
    """Questions whose answers are known."""
    num_windows: int
    loss: float | None
    """Mean over the windows of the mean of the two cross-entropies, in nats."""
    exact: float | None
    f1: float | None
    has_answer_exact: float | None = None
    has_answer_f1: float | None = None
    num_has_answer: int = 0
    no_answer_exact: float | None = None
    no_answer_f1: float | None = None
    num_no_answer: int = 0
    null_threshold: float | None = None
    """Null odds above which a question was left unanswered; None where every question has an answer."""
    null_threshold_is_tuned: bool = False
    """Whether the threshold is the one with the best F1 on these same questions."""
    best_exact: float | None = None
    """What the best threshold on these questions would reach, which is an upper bound."""
    best_exact_threshold: float | None = None
    best_f1: float | None = None
    best_f1_threshold: float | None = None

    def value_of(self, metric: str) -> float:
        """Return `f1`, `exact`, or `loss` with its sign changed: higher is better."""
        loss = None if self.loss is None else -self.loss
        value = {"f1": self.f1, "exact": self.exact, "loss": loss}[metric]
        assert value is not None, "a development split has answers: read_split was asked to require them"
        return value

    def curves(self) -> dict[str, float | None]:
        """Return the metrics that are plotted over the steps."""
        return {"loss": self.loss, "f1": self.f1, "exact": self.exact}

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain numbers."""
        return asdict(self)


class Span(TaskType[SpanMetrics]):
    """The mean of the cross-entropies of start and end, over the tokens of each window."""

    @property
    def num_outputs(self) -> int:
        """The packed `WindowScores` of a window."""
        return num_packed(self.task.n_best)

    @property
    def class_names(self) -> None:
        """None: the two outputs are a start and an end."""

    def prepare(self, table: EncodedTable, *, text: TextSection) -> WindowTable:
        """Cut contexts into windows. Raises: DataError: a question leaves no room for its context."""
        return cut_windows(table, max_len=text.max_len, stride=text.stride)

    def build_model(
        self, source: LoadedModel | BertConfig, *, seed: int, model: ModelSection | None = None
    ) -> BertForQuestionAnswering:
        return build_with_head(
            source, BertForQuestionAnswering, head="qa_outputs", seed=seed, **head_arguments(model)
        )

    def targets(self, table: EncodedTable, batch: Batch) -> dict[str, np.ndarray]:
        """Return what is known of each window (B) and of its tokens (B, L).

        `start`, `end`: indices in the sequence. `example`: row of the question. `first_token`: what to add to
        an index to get the token's number in the context. `start_chars`, `end_chars`: characters of each
        token, -1 where no answer may begin, or end.
        """
        assert isinstance(table, WindowTable), "prepare() has cut the windows"
        rows_B, length = batch.rows_B, int(batch.lengths_B.max())
        context_at_B = table.context_at_W[rows_B]
        # Where the tokens of each window's context lie in the (B, L) arrays, and in those of all windows.
        places = ragged.flat_indices(np.arange(len(rows_B)) * length + context_at_B, table.length_W[rows_B])
        tokens_T = ragged.flat_indices(table.offsets_W[:-1][rows_B], table.length_W[rows_B])
        characters = np.full((2, len(rows_B), length), -1, dtype=np.int64)
        characters[0].reshape(-1)[places] = table.answer_starts_T[tokens_T]
        characters[1].reshape(-1)[places] = table.char_ends_T[tokens_T]
        return {
            "start": table.start_W[rows_B],
            "end": table.end_W[rows_B],
            "example": table.example_W[rows_B],
            "first_token": table.begin_W[rows_B] - context_at_B,
            "start_chars": characters[0],
            "end_chars": characters[1],
        }

    def loss_sum(self, output: Tensor, microbatch: Microbatch) -> Tensor:
        targets = microbatch.targets
        return span_loss_sum(output, start_B=targets["start"], end_B=targets["end"])

    def start_counts(self, table: EncodedTable, *, batch_size: int, device: torch.device) -> "_Counts":
        assert isinstance(table, WindowTable), "prepare() has cut the windows"
        return _Counts(self, table, device=device)

    def outputs(self, output: Tensor, microbatch: Microbatch) -> tuple[Int64s, Tensor]:
        return microbatch.rows_B, self.pack(output, microbatch.targets)

    def pack(self, output_2BL: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the packed `WindowScores` (B, K) of a microbatch, on its device."""
        n = self.task.n_best
        # Stable, so that of equal logits the earlier token is the better one on every device.
        scores_2BL, places_2BL = output_2BL.sort(dim=2, descending=True, stable=True)
        sides = []
        for side, name in enumerate(("start_chars", "end_chars")):
            scores_BK, places_BK = scores_2BL[side, :, :n], places_2BL[side, :, :n]
            characters_BK = targets[name].gather(1, places_BK)
            tokens_BK = torch.where(characters_BK >= 0, places_BK + targets["first_token"][:, None], -1)
            scores_BK = scores_BK.masked_fill(characters_BK < 0, 0.0)  # no -inf in what is added up
            found = torch.stack((tokens_BK.float(), characters_BK.float(), scores_BK), dim=1)
            sides.append(_widened(found, n))
        null_B2 = output_2BL[:, :, 0].t()
        example_B1 = targets["example"][:, None].float()
        return torch.cat((example_B1, null_B2, *(side.flatten(1) for side in sides)), dim=1)

    def answers(self, packed_WK: Floats, contexts: list[str]) -> list[QuestionAnswers]:
        """Return the answers of all questions, in their order."""
        return choose_answers(
            WindowScores.unpack(packed_WK),
            contexts=contexts,
            n_best=self.task.n_best,
            max_answer_tokens=self.task.max_answer_tokens,
            unanswerable=self.task.unanswerable,
        )

    def scores(
        self, answers: list[QuestionAnswers], references: list[list[str]]
    ) -> tuple[SquadScores, float | None]:
        """Return the scores, and the threshold on the null odds that they are for.

        A threshold that the task does not set is tuned on these questions.
        """
        if not self.task.unanswerable:
            return squad_scores([a.best.text for a in answers], references=references), None
        scores = partial(
            squad_scores,
            [a.best.text for a in answers],
            references=references,
            null_odds=[a.null_odds for a in answers],
        )
        threshold = self.task.null_threshold
        if threshold is None:
            best = scores().best_f1
            assert best is not None, "there are null odds"
            threshold = best.threshold
        return scores(null_threshold=threshold), threshold

    def prediction_columns(self, table: pa.Table, outputs_RK: Floats) -> dict[str, Any]:
        """Return `prediction`, its first and last character, its probability, and the null odds."""
        answers, threshold = self._predicted(table, outputs_RK)
        texts = [a.text(threshold) for a in answers]
        columns = {
            "prediction": pa.array(texts, pa.string()),
            "start": pa.array([a.best.start if t else -1 for a, t in zip(answers, texts, strict=True)]),
            "end": pa.array([a.best.end if t else -1 for a, t in zip(answers, texts, strict=True)]),
            "probability": pa.array([a.probability_of(t) for a, t in zip(answers, texts, strict=True)]),
        }
        if self.task.unanswerable:
            columns["null_odds"] = pa.array([a.null_odds for a in answers])
        return columns

    def ranked(self, table: pa.Table, outputs_RK: Floats) -> list[list[RankedValue]]:
        answers, threshold = self._predicted(table, outputs_RK)
        return [_ranked(a, a.text(threshold)) for a in answers]

    def prediction_files(self, table: pa.Table, outputs_RK: Floats) -> dict[str, bytes]:
        """Return what SQuAD's official scripts read, by question id; scores where the answers are known."""
        answers, threshold = self._predicted(table, outputs_RK)
        ids = table["id"].to_pylist()
        files = {
            PREDICTIONS: {i: a.text(threshold) for i, a in zip(ids, answers, strict=True)},
            NBEST: {i: [_nbest_entry(c) for c in a.candidates] for i, a in zip(ids, answers, strict=True)},
        }
        if self.task.unanswerable:
            files[NULL_ODDS] = {i: a.null_odds for i, a in zip(ids, answers, strict=True)}
        if (table["label"].to_numpy() >= 0).all():
            files[SCORES] = self.scores(answers, table["answers"].to_pylist())[0].official()
        return {
            name: (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
            for name, content in files.items()
        }

    def _predicted(self, table: pa.Table, outputs_RK: Floats) -> tuple[list[QuestionAnswers], float | None]:
        answers = self.answers(outputs_RK, table["text_b"].to_pylist())
        if not self.task.unanswerable:
            return answers, None
        if self.task.null_threshold is None and (table["label"].to_numpy() >= 0).all():
            return answers, self.scores(answers, table["answers"].to_pylist())[1]
        return answers, self.task.null_threshold or 0.0

    def evaluated_task(self, trained: Task | None) -> Task:
        """Return the task with a threshold: its own, else the model's, else 0."""
        if not self.task.unanswerable or self.task.null_threshold is not None:
            return self.task
        threshold = None if trained is None else trained.null_threshold
        return replace(self.task, null_threshold=threshold or 0.0)

    def task_of_model(self, metrics: SpanMetrics) -> Task:
        """Return the task with the threshold that was tuned on the development split."""
        return replace(self.task, null_threshold=metrics.null_threshold)

    def metrics_from_json(self, content: Mapping[str, Any]) -> SpanMetrics:
        return SpanMetrics(**content)


def _ranked(answers: QuestionAnswers, predicted: str) -> list[RankedValue]:
    """Return the n-best list, what is predicted in front: the threshold decides whether that is no answer."""
    candidates = sorted(answers.candidates, key=lambda c: c.text != predicted)
    return [
        RankedValue(
            value=c.text,
            probability=c.probability,
            start=c.start if c.text else None,
            end=c.end if c.text else None,
            is_predicted=not place,
        )
        for place, c in enumerate(candidates)
    ]


def _widened(found_B3K: Tensor, n: int) -> Tensor:
    """Fill up with places where there is nothing, where windows have fewer tokens than `n`."""
    return torch.nn.functional.pad(found_B3K, (0, n - found_B3K.shape[2]), value=-1.0)


def _nbest_entry(candidate: Any) -> dict[str, Any]:
    return {
        "text": candidate.text,
        "probability": candidate.probability,
        "start_logit": candidate.start_logit,
        "end_logit": candidate.end_logit,
    }


class _Counts:
    """Keep the scores of this rank's windows, and sum the loss, on the device."""

    def __init__(self, span: Span, table: WindowTable, *, device: torch.device) -> None:
        self._span, self._table = span, table
        self._packed_WK = torch.zeros((table.num_rows, span.num_outputs), device=device)
        self._loss_sum = torch.zeros(1, dtype=torch.float64, device=device)
        self._is_known_W = torch.from_numpy(table.labels >= 0).to(device)

    def add(self, output: Tensor, microbatch: Microbatch) -> None:
        targets = microbatch.targets
        self._packed_WK[targets["rows"]] = self._span.pack(output, targets)
        known_B = self._is_known_W[targets["rows"]]
        self._loss_sum += span_loss_sum(
            output[:, known_B].double(), start_B=targets["start"][known_B], end_B=targets["end"][known_B]
        )

    def metrics(self, ranks: Ranks) -> SpanMetrics:
        # Each window is a row of zeros on all ranks but one.
        ranks.all_reduce(self._packed_WK, self._loss_sum)
        examples = self._table.examples
        is_known_E = examples.labels >= 0
        num_windows = int(is_known_E[self._table.example_W].sum())
        if not is_known_E.any():
            return SpanMetrics(num_examples=0, num_windows=0, loss=None, exact=None, f1=None)
        answers = self._span.answers(self._packed_WK.cpu().numpy(), examples.more["context"].to_pylist())
        references = examples.more["answers"].to_pylist()
        known = np.flatnonzero(is_known_E)
        found, threshold = self._span.scores([answers[i] for i in known], [references[i] for i in known])
        return _metrics(
            found,
            loss=float(self._loss_sum) / num_windows,
            num_windows=num_windows,
            null_threshold=threshold,
            is_tuned=threshold is not None and self._span.task.null_threshold is None,
        )


def _metrics(
    scores: SquadScores, *, loss: float, num_windows: int, null_threshold: float | None, is_tuned: bool
) -> SpanMetrics:
    exact, f1 = scores.all.shares()
    has_answer, no_answer = _shares(scores.has_answer), _shares(scores.no_answer)
    best_exact, best_f1 = scores.best_exact, scores.best_f1
    return SpanMetrics(
        num_examples=scores.all.total,
        num_windows=num_windows,
        loss=loss,
        exact=exact,
        f1=f1,
        has_answer_exact=has_answer[0],
        has_answer_f1=has_answer[1],
        num_has_answer=scores.has_answer.total if scores.has_answer else 0,
        no_answer_exact=no_answer[0],
        no_answer_f1=no_answer[1],
        num_no_answer=scores.no_answer.total if scores.no_answer else 0,
        null_threshold=null_threshold,
        null_threshold_is_tuned=is_tuned,
        best_exact=best_exact.score_sum / scores.all.total if best_exact else None,
        best_exact_threshold=best_exact.threshold if best_exact else None,
        best_f1=best_f1.score_sum / scores.all.total if best_f1 else None,
        best_f1_threshold=best_f1.threshold if best_f1 else None,
    )


def _shares(part: ScoreSum | None) -> tuple[float | None, float | None]:
    return (None, None) if part is None else part.shares()
