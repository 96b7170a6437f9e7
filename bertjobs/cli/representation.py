"""How `encode` and `fill-mask` look to people: a block per text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bertjobs.cli.render import print_line, print_table
from bertjobs.cli.words import printable

if TYPE_CHECKING:  # what they are made of imports torch
    from bertjobs.runs.masks import MaskedText
    from bertjobs.runs.texts import Representation

_SHOWN = 3
"""Numbers of a vector on the screen, as d2l shows it."""


def print_representations(found: Sequence[Representation]) -> None:
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
