"""Which rows each step takes: a function of the configuration, alike on all ranks and after a resume."""

import math
from dataclasses import dataclass
from functools import lru_cache

from bertjobs.config.finetune import TrainSection
from bertjobs.text.batching import Ints, order_of_epoch


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps of a run, counted from 0, and their rows."""

    num_rows: int
    batch_size: int
    num_steps: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every row was used once; the last of them may be smaller."""
        return math.ceil(self.num_rows / self.batch_size)

    def epoch_of(self, step: int) -> int:
        return step // self.steps_per_epoch

    def rows_of(self, step: int) -> Ints:
        """Return the rows of the table that make the global batch of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _order(self.num_rows, self.seed, epoch)
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def num_examples(self, num_done: int) -> int:
        """Return how many examples so many steps see; the last step of an epoch may have fewer."""
        epochs, steps = divmod(num_done, self.steps_per_epoch)
        return epochs * self.num_rows + steps * self.batch_size

    def ends_epoch(self, num_done: int) -> bool:
        """Return whether an epoch, or the run, is over after this many steps."""
        return num_done == self.num_steps or num_done % self.steps_per_epoch == 0


def make_plan(num_rows: int, *, train: TrainSection) -> Plan:
    """Lay out a run over so many rows; `max_steps` overrides `epochs`, in both directions."""
    assert num_rows > 0, "read_split refuses empty training data"
    steps_per_epoch = math.ceil(num_rows / train.batch_size)
    return Plan(
        num_rows=num_rows,
        batch_size=train.batch_size,
        num_steps=train.max_steps or train.epochs * steps_per_epoch,
        seed=train.seed,
    )


@lru_cache(maxsize=1)
def _order(num_rows: int, seed: int, epoch: int) -> Ints:
    return order_of_epoch(num_rows, seed=seed, epoch=epoch)
