"""Making pretraining batches alone: order, pairs, gathering, masks, near-packing; beside their collator.

    BERTJOBS_TEST_DATA=<folder with data/wikitext-2> python tests/benchmarks/bench_masking.py

One process, one thread. Theirs, `DataCollatorForLanguageModeling`, is given rows that are pairs already, and
only pads and masks them. There is no goal but that the step never waits: a step of these batches takes a
second on 2 cores, and some milliseconds with a tiny model on a GPU.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from bertjobs.config.pretrain import CorpusSection, ObjectiveSection
from bertjobs.text.corpus.blocks import Block, BlockInfo, encode_shard, group_small_blocks
from bertjobs.text.corpus.order import CorpusOrder
from bertjobs.text.corpus.shards import plan_shards
from bertjobs.text.pretraining.collate import PretrainBatch, collate_pretraining, draw_examples
from bertjobs.text.pretraining.masking import Masker
from bertjobs.text.pretraining.pairing import BlockSelection, Pairing
from bertjobs.text.source_file import SourceFile
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.tokenizer_files import load_tokenizer

OBJECTIVES: dict[str, dict[str, Any]] = {
    "nsp": {},
    "nsp, whole words": {"whole_word": True},
    "nsp, single sentences": {"segments": "sentence"},
    "sop": {"pairs": "sop"},
    "full-length windows": {"pairs": "none"},
}


def main() -> None:
    """Measure each objective, then theirs, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--max-len", type=int, default=128)
    parser.add_argument("--batches", type=int, default=20, help="batches of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    if "BERTJOBS_TEST_DATA" not in os.environ:
        sys.exit("BERTJOBS_TEST_DATA is not set: it names the folder that holds data/wikitext-2.")
    torch.set_num_threads(1)
    data = Path(os.environ["BERTJOBS_TEST_DATA"]) / "data"
    tokenizer = load_tokenizer(data / "vocab" / "bert-base-uncased-vocab.txt")
    blocks = read_blocks(data / "wikitext-2" / "wiki.train.tokens", tokenizer)
    made = {name: maker(blocks, tokenizer, options, given) for name, options in OBJECTIVES.items()}
    made["DataCollatorForLanguageModeling"] = theirs(tokenizer, made["nsp"], given.batches)
    figures = {name: measure(make, given) for name, make in made.items()}
    show(figures, given)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def read_blocks(path: Path, tokenizer: Tokenizer) -> list[Block]:
    """Return blocks so small that a batch has examples of many."""
    shards = plan_shards([SourceFile(path)], CorpusSection(corpus=str(path), block_bytes=1 << 17))
    tables = [encode_shard(shard, tokenizer) for shard in shards]
    groups = group_small_blocks([BlockInfo.of(table) for table in tables])
    return [Block.join([Block.from_arrow(tables[i]) for i in group]) for group in groups]


def maker(
    blocks: list[Block], tokenizer: Tokenizer, options: dict[str, Any], given: argparse.Namespace
) -> Callable[[int], PretrainBatch]:
    """Return what makes the batch of a step."""
    objective = ObjectiveSection.model_validate(options)
    pairing = Pairing(objective, given.max_len, sep_id=tokenizer.sep_id)
    masker = Masker(objective, tokenizer)
    order = CorpusOrder([pairing.num_examples(b) for b in blocks], seed=0, shuffle_blocks=16)

    def make(step: int) -> PretrainBatch:
        epoch, chosen = order.batch(step, given.batch_size)
        parts = [BlockSelection(block=blocks[n], indices=i, first=order.first_of(n)) for n, i in chosen]
        examples = draw_examples(pairing, parts, seed=0, epoch=epoch)
        rows = np.arange(len(examples.lengths_B))
        return collate_pretraining(examples, rows, masker=masker, tokenizer=tokenizer)

    return make


def theirs(
    tokenizer: Tokenizer, make: Callable[[int], PretrainBatch], num_batches: int
) -> Callable[[int], list[Any]]:
    """Return what makes a batch of the same pairs with their collator, from lists as `datasets` has them."""
    with tempfile.TemporaryDirectory(prefix="bertjobs-bench-") as name:
        tokenizer.save(Path(name))
        collator = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(name))
    rows = [rows_of(make(step), tokenizer) for step in range(num_batches)]

    def collate(step: int) -> list[Any]:
        batch = rows[step % num_batches]
        collator([dict(row) for row in batch])
        return batch

    return collate


def rows_of(batch: PretrainBatch, tokenizer: Tokenizer) -> list[dict[str, list[int]]]:
    ids = batch.ids_N.copy()
    ids[batch.masked_P] = batch.targets_P
    rows = []
    for start, length in zip(batch.starts_B, batch.lengths_B, strict=True):
        own = ids[start : start + length]
        is_special = np.isin(own, [tokenizer.cls_id, tokenizer.sep_id]).astype(int)
        rows.append({
            "input_ids": own.tolist(), "special_tokens_mask": is_special.tolist(),
            "token_type_ids": batch.segments_N[start : start + length].tolist(),
        })  # fmt: skip
    return rows


def measure(make: Callable[[int], Any], given: argparse.Namespace) -> dict[str, float]:
    """Return examples per second, the median of the rounds after the first."""
    rates = []
    for _ in range(given.rounds + 1):
        began, num_examples = time.perf_counter(), 0
        for step in range(given.batches):
            made = make(step)
            num_examples += len(made.rows_B if isinstance(made, PretrainBatch) else made)
        rates.append(num_examples / (time.perf_counter() - began))
    rate = statistics.median(rates[1:])
    return {"examples_per_s": rate, "ms_per_batch": 1e3 * given.batch_size / rate}


def show(figures: dict[str, dict[str, float]], given: argparse.Namespace) -> None:
    print(f"batches of {given.batch_size}, at most {given.max_len} wordpieces, one core")
    print(f"{'':<32} {'examples/s':>11} {'ms/batch':>9}")
    for name, row in figures.items():
        print(f"{name:<32} {row['examples_per_s']:>11,.0f} {row['ms_per_batch']:>9.1f}")


if __name__ == "__main__":
    main()
