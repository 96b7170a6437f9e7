"""The answers of `data inspect` (a block per split), `encode` and `fill-mask` (a block per text) as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bertjobs.cli.output.formatting import printable
from bertjobs.cli.output.render import print_line, print_table

if TYPE_CHECKING:  # their modules import torch
    from bertjobs.runs.encode.embed_texts import TextEmbedding
    from bertjobs.runs.encode.fill_mask import MaskedText


_BAR = 40


def print_splits(reports: dict[str, dict[str, Any]]) -> None:
    """Print the report of every split."""
    for place, (split, report) in enumerate(reports.items()):
        if place:
            print_line("")
        _print_split(split, report)


def print_corpora(reports: dict[str, dict[str, Any]]) -> None:
    """Print the report of every split of a corpus."""
    for place, (name, report) in enumerate(reports.items()):
        if place:
            print_line("")
        counts = [f"{report[what]:,} {what}" for what in ("documents", "sentences")]
        dropped = f" (dropped: {report['dropped']:,})" if report["dropped"] else ""
        print_line(f"{name}: {', '.join(counts)}, {report['tokens']:,} {report['unit']}{dropped}")
        print_line(f"  Sentences per document: {_quantiles(report['sentences_per_document'])}")
        print_line(f"  Document length in {report['unit']}: {_quantiles(report['document_lengths'])}")
        print_line(f"  Sentence length in {report['unit']}: {_quantiles(report['sentence_lengths'])}")
        _print_histogram(report["sentence_lengths"], of="sentences")


def _print_split(split: str, report: dict[str, Any]) -> None:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in report["dropped"].items() if count)
    print_line(f"{split}: {report['rows']:,} rows" + (f" (dropped: {dropped})" if dropped else ""))
    total = sum(report["labels"].values())
    rows = [[name, f"{count:,}", f"{count / total:.1%}"] for name, count in report["labels"].items()]
    print_table(["  LABEL", "ROWS", "SHARE"], [[f"  {name}", *rest] for name, *rest in rows])
    print_line(f"\n  Length in {report['unit']}, special tokens included: {_quantiles(report['lengths'])}")
    _print_histogram(report["lengths"])
    _print_cuts(report)


def _quantiles(lengths: dict[str, Any]) -> str:
    return ", ".join(f"{name} {lengths[name]:,}" for name in ("mean", "p50", "p90", "p99", "max"))


def _print_histogram(lengths: dict[str, Any], *, of: str = "rows") -> None:
    bins = [bin_ for bin_ in lengths["histogram"] if bin_["to"] >= lengths["min"]]
    most = max(bin_["rows"] for bin_ in bins)
    rows = [[f"  {_range(b)}", f"{b['rows']:,}", "█" * -(-b["rows"] * _BAR // most)] for b in bins]
    print_table(["  LENGTH", of.upper(), ""], rows)


def _range(bin_: dict[str, int]) -> str:
    return str(bin_["to"]) if bin_["from"] == bin_["to"] else f"{bin_['from']}-{bin_['to']}"


def _print_cuts(report: dict[str, Any]) -> None:
    print_line(f"\n  Cut at {report['max_len']}:")
    rows = [
        [
            f"  {strategy}",
            f"{cut['rows_cut_ratio']:.2%}",
            f"{cut['tokens_cut_ratio']:.2%}",
            f"{cut['num_tokens_cut_second'] / max(1, cut['num_tokens_cut']):.0%}",
            str(cut["max_tokens_cut"]),
            str(cut["num_texts_lost"]),
        ]
        for strategy, cut in report["truncation"].items()
    ]
    print_table(["  STRATEGY", "EXAMPLES", "TOKENS", "OF 2ND TEXT", "MOST", "TEXTS LOST"], rows)


_SHOWN = 3
"""Numbers shown of a vector, as in d2l."""


def print_embeddings(found: Sequence[TextEmbedding]) -> None:
    """Print each text's tokens, and the shape and first numbers of its vectors."""
    for place, one in enumerate(found):
        if place:
            print_line("")
        (dim,) = one.vectors[0].vector.shape
        print_line(printable(one.text))
        print_line(
            f"  {len(one.tokens)} tokens, ({len(one.tokens)}, {dim}): {printable(' '.join(one.tokens))}"
        )
        rows = [
            [
                f"  {printable(v.token)}",
                "-" if v.position is None else str(v.position),
                f"({dim},)",
                " ".join(f"{number:9.6f}" for number in v.vector[:_SHOWN].tolist())
                + (" ..." if dim > _SHOWN else ""),
            ]
            for v in one.vectors
        ]
        print_table(["  TOKEN", "AT", "SHAPE", "VECTOR"], rows)


def print_masked_texts(found: Sequence[MaskedText]) -> None:
    """Print the predictions for each mask of each text."""
    for place, one in enumerate(found):
        if place:
            print_line("")
        print_line(printable(one.text))
        for number, mask in enumerate(one.masks, start=1):
            if len(one.masks) > 1:
                print_line(f"  mask {number}, at {mask.position}")
            rows = [[f"  {printable(p.token)}", f"{p.probability:.2%}"] for p in mask.predictions]
            print_table(["  TOKEN", "PROBABILITY"], rows)
