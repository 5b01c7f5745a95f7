"""Fluent files (.ftl) of Mozilla's applications."""

from __future__ import annotations

from collections.abc import Mapping

from fluent.syntax import FluentParser, ast


def read_ftl(text: str) -> dict[str, ast.Pattern]:
    """Patterns by key: "id" of a message, "id.attribute" of its attributes, "-id" of a term. Broken entries are left
    out.
    """
    patterns: dict[str, ast.Pattern] = {}
    for entry in FluentParser().parse(text).body:
        if not isinstance(entry, (ast.Message, ast.Term)):
            continue
        key = ("-" if isinstance(entry, ast.Term) else "") + entry.id.name
        if entry.value is not None:
            patterns[key] = entry.value
        for attribute in entry.attributes:
            patterns[f"{key}.{attribute.id.name}"] = attribute.value
    return patterns


def plain_pattern(pattern: ast.Pattern, terms: Mapping[str, ast.Pattern], depth: int = 0) -> str | None:
    """The pattern as text: terms filled in, variables as ``{ $name }``; ``None`` where it selects between variants or
    calls functions.
    """
    parts: list[str] = []
    for element in pattern.elements:
        text = element.value if isinstance(element, ast.TextElement) else _placeable(element.expression, terms, depth)
        if text is None:
            return None
        parts.append(text)
    return "".join(parts)


def _placeable(expression: object, terms: Mapping[str, ast.Pattern], depth: int) -> str | None:
    if isinstance(expression, ast.StringLiteral):
        return str(expression.parse()["value"])
    if isinstance(expression, ast.NumberLiteral):
        return expression.value
    if isinstance(expression, ast.VariableReference):
        return f"{{ ${expression.id.name} }}"
    if isinstance(expression, ast.TermReference) and depth < 3:
        term = terms.get("-" + expression.id.name)
        return None if term is None else plain_pattern(term, terms, depth + 1)
    return None
