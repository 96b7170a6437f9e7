"""How `data inspect` looks to people: a block per split, with its labels, its lengths and its cuts."""

from typing import Any

from bertjobs.cli.render import print_line, print_table

_BAR = 40


def print_inspection(reports: dict[str, dict[str, Any]]) -> None:
    """Print the report of every split."""
    for place, (split, report) in enumerate(reports.items()):
        if place:
            print_line("")
        _print_split(split, report)


def _print_split(split: str, report: dict[str, Any]) -> None:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in report["dropped"].items() if count)
    print_line(f"{split}: {report['rows']:,} rows" + (f" (dropped: {dropped})" if dropped else ""))
    total = sum(report["labels"].values())
    rows = [[name, f"{count:,}", f"{count / total:.1%}"] for name, count in report["labels"].items()]
    print_table(["  LABEL", "ROWS", "SHARE"], [[f"  {name}", *rest] for name, *rest in rows])
    _print_lengths(report["lengths"], unit=report["unit"])
    _print_cuts(report)


def _print_lengths(lengths: dict[str, Any], *, unit: str) -> None:
    facts = ", ".join(f"{name} {lengths[name]}" for name in ("mean", "p50", "p90", "p99", "max"))
    print_line(f"\n  Length in {unit}, special tokens included: {facts}")
    bins = [bin_ for bin_ in lengths["histogram"] if bin_["to"] >= lengths["min"]]
    most = max(bin_["rows"] for bin_ in bins)
    rows = [[f"  {_range(b)}", f"{b['rows']:,}", "█" * -(-b["rows"] * _BAR // most)] for b in bins]
    print_table(["  LENGTH", "ROWS", ""], rows)


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
