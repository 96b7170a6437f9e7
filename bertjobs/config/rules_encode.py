"""Values of an encode job that contradict each other, or that nothing reads."""

from bertjobs.config.rule import WORKERS, Contradiction, Idle

ENCODE_CONTRADICTIONS: tuple[Contradiction, ...] = (
    WORKERS,
    Contradiction(
        paths=("resources.workers", "resources.gpus"),
        holds=lambda c: c.resources.gpus > (c.resources.workers or c.resources.gpus),
        says=lambda c: (
            f"a worker uses one GPU, so {c.resources.workers} worker(s) would leave some of "
            f"{c.resources.gpus} idle"
        ),
    ),
)

_FOR_PAIRS = ("only_first", "only_second", "ratio")

ENCODE_IDLE: tuple[Idle, ...] = (
    Idle(
        path="data.column",
        holds=lambda c: c.data.path.endswith((".txt", ".text", ".tokens")),
        because="a line of plain text has no columns",
    ),
    Idle(
        path="text.truncation",
        holds=lambda c: (
            c.text.pair_separator is None and c.text.truncation not in ("longest_first", "head_tail")
        ),
        because="it tells the two texts of a pair apart, and without --pair-separator there are none",
    ),
)
