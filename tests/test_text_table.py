from __future__ import annotations

from smoe_mt.text_table import aligned, markdown_table

ROWS = [("name", "n", "why"), ("a", "12", ""), ("long name", "3", "it is")]


def test_names_stand_to_the_left_and_numbers_to_the_right() -> None:
    assert aligned(ROWS, left=(0, 2)) == ["name        n  why", "a          12", "long name   3  it is"]
    assert aligned(ROWS)[1] == "a          12"


def test_markdown_escapes_and_aligns() -> None:
    assert markdown_table(("a", "b"), [("x|y", "1")]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"
    assert markdown_table(("a", "b"), [], numbers=True) == "| a | b |\n| --- | ---: |"
