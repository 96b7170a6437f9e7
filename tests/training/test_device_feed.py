import threading
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from bertjobs.config.sections import TextSection
from bertjobs.training.batches import BatchLoader, StepBatch
from bertjobs.training.device_feed import StagedBatch, from_device, on_device
from bertjobs.training.distributed import current_ranks
from host_waits import NoHostWaits

CPU = torch.device("cpu")


def _batch(tiny: ModuleType, *, min_microbatches: int = 2) -> StepBatch:
    loader = BatchLoader(
        tiny.make_table(24, seed=1),
        text=TextSection(max_len=32),
        tokenizer=tiny.SpecialTokens(),
        max_tokens=16384,
        ranks=current_ranks(),
        vocab_size=tiny.VOCAB_SIZE,
    )
    return loader.step_batch(np.arange(24), seed=0, step=0, min_microbatches=min_microbatches)


def test_a_staged_batch_has_the_same_tensors(tiny: ModuleType) -> None:
    batch = _batch(tiny)
    there = StagedBatch.stage(batch, pin_memory=False).to(CPU)
    assert torch.equal(there.token_ids_T, batch.token_ids_T)
    for ours, theirs in zip(there.microbatches, batch.microbatches, strict=True):
        assert torch.equal(ours.targets["labels"], theirs.targets["labels"])
        assert ours.targets["labels"].dtype == theirs.targets["labels"].dtype
        for name in ("ids_N", "segments_N", "positions_N", "starts_B", "row_keys_B", "lengths_B"):
            assert torch.equal(getattr(ours.inputs, name), getattr(theirs.inputs, name)), name
        assert ours.inputs.groups == theirs.inputs.groups and ours.rows_B is theirs.rows_B


def test_a_batch_is_copied_at_once_and_without_a_wait(tiny: ModuleType) -> None:
    staged = StagedBatch.stage(_batch(tiny), pin_memory=False)
    with NoHostWaits() as waits:
        there = staged.to(torch.device("meta"))
    assert waits.copies == [staged.buffer.shape]
    for microbatch in there.microbatches:
        assert microbatch.targets["labels"].device.type == microbatch.inputs.ids_N.device.type == "meta"
        assert microbatch.inputs.lengths_B.device == CPU  # the host lays the batch out by them


def test_a_thread_makes_the_batches_in_their_order_and_a_few_ahead_only() -> None:
    made: list[int] = []
    threads: set[int] = set()

    def batches() -> Iterator[torch.Tensor]:
        for number in range(20):
            made.append(number)
            threads.add(threading.get_ident())
            yield torch.tensor([number])

    feed = on_device(batches(), CPU, ahead=True)
    used = [int(next(feed))]
    assert len(made) <= 5  # the one used, two in the queue, one that waits for room, one being made
    used += [int(batch) for batch in feed]
    assert used == made == list(range(20))
    assert threads and threading.get_ident() not in threads


def test_an_error_of_the_thread_is_raised_at_its_batch() -> None:
    def batches() -> Iterator[torch.Tensor]:
        yield torch.tensor([0])
        raise ValueError("row 7 is damaged")

    feed = on_device(batches(), CPU, ahead=True)
    assert int(next(feed)) == 0
    with pytest.raises(ValueError, match="row 7 is damaged"):
        next(feed)


def test_closing_ends_the_thread_though_batches_go_on_for_ever() -> None:
    def batches() -> Iterator[torch.Tensor]:
        while True:
            yield torch.zeros(1)

    feed = on_device(batches(), CPU, ahead=True)
    next(feed)
    (thread,) = (t for t in threading.enumerate() if t.name == "bertjobs-batches")
    feed.close()
    assert not thread.is_alive()


@pytest.mark.parametrize("num_behind", [0, 2, 100])
def test_results_come_back_in_their_order_and_a_few_behind_the_device(num_behind: int) -> None:
    computed: list[int] = []

    def results() -> Iterator[tuple[str, torch.Tensor]]:
        for number in range(6):
            computed.append(number)
            yield f"row {number}", torch.full((2,), number)

    read = []
    for key, result in from_device(results(), num_behind=num_behind):
        assert isinstance(result, np.ndarray) and result.tolist() == [len(read)] * 2
        read.append(key)
        assert len(computed) == min(6, len(read) + num_behind)
    assert read == [f"row {number}" for number in range(6)]


def test_on_a_cpu_a_batch_is_made_when_it_is_asked_for_and_not_copied() -> None:
    made = [torch.zeros(1), torch.zeros(1)]
    feed = on_device(iter(made), CPU)
    assert next(feed) is made[0]
    assert not any(t.name == "bertjobs-batches" for t in threading.enumerate())
