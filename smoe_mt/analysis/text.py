"""Requested capacity for a terminal and for a spreadsheet."""

from __future__ import annotations

import csv
import io

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.moe.names import Block
from smoe_mt.text_table import aligned

BAR = 40


def histograms(report: CapacityReport) -> str:
    """Per block one row for each number of visits, with a bar as long as its share of the tokens."""
    return "\n\n".join(_histogram(report, block) for block in report.visits.blocks)


def _histogram(report: CapacityReport, block: Block) -> str:
    visits = report.visits
    shares = visits.histogram(block)
    each = f", {visits.sub_tokens} sub-tokens" if visits.sub_tokens > 1 else ""
    title = f"{block}: mean {visits.mean(block):.3f} of {visits.strata} strata{each}"
    if block in visits.collapsed():
        title += f"\n  COLLAPSE: every token of every direction makes {shares.index(max(shares)) + 1} visit(s) here"
    rows = [
        f"  {count} visit{'s' if count > 1 else ' '} {share:7.2%} {'#' * round(BAR * share)}".rstrip()
        for count, share in enumerate(shares, start=1)
    ]
    return "\n".join([title, *rows])


def collapse_message(report: CapacityReport) -> str | None:
    """One loud line on collapsed blocks, or None where there are none."""
    collapsed = [str(block) for block in report.visits.collapsed()]
    if not collapsed:
        return None
    if len(collapsed) == len(report.visits.blocks):
        return "COLLAPSE: in every block all tokens make the same number of visits; no figure of requested capacity is drawn"
    return f"COLLAPSE: all tokens make the same number of visits in {', '.join(collapsed)}"


def direction_table(report: CapacityReport) -> str:
    """Mean requested capacity per direction, encoder and decoder apart."""
    rows = [["direction", *report.sides]]
    for direction in report.directions:
        rows.append([direction, *(f"{report.visits.side_mean(side, direction):.3f}" for side in report.sides)])
    return "\n".join(aligned(rows))


def as_csv(report: CapacityReport) -> str:
    """A row per direction and block: means, shares of 1..L visits, tokens."""
    visits = report.visits
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    shares = [f"share_{count}" for count in range(1, visits.most + 1)]
    writer.writerow(["direction", "side", "block", "tokens", "mean", *shares])
    for direction in report.directions:
        for block in visits.blocks:
            histogram = [f"{share:.6f}" for share in visits.histogram(block, direction)]
            tokens = int(visits.counts[direction][block].sum())
            mean = f"{visits.mean(block, direction):.6f}"
            writer.writerow([direction, block.side, block, tokens, mean, *histogram])
    return stream.getvalue()
