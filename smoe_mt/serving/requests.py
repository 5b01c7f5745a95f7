"""From the bytes of a request to what it asks for: every mistake in them is refused in one line, with its HTTP status."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from smoe_mt.errors import UserError, one_line
from smoe_mt.generation.routing_options import Capacity
from smoe_mt.json_files import parse_json
from smoe_mt.language_codes import canonical
from smoe_mt.serving.limits import Limits, Refused
from smoe_mt.serving.wire import Facts

AUTO = "auto"
FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 1000
MOST_DISCARDED = 32 << 20  # bytes of a body that is too large
DIAL = 4.0  # a request may turn the bias of the capacity dial from minus this to this


@dataclass(frozen=True)
class Wanted:
    """A request for translations.

    texts        each may hold several lines
    listed       they came as a list, and so go back
    source       a language, or AUTO
    alternatives besides the best translation of each text
    """

    texts: tuple[str, ...]
    listed: bool
    source: str
    target: str
    alternatives: int
    routing: bool
    capacity: str | None


async def read_fields(request: Request, limits: Limits) -> dict[str, Any]:
    """The fields of a request's body, JSON or a form; of the address where there is no body. Raises Refused."""
    body = await _body(request, limits)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if not body:
        return dict(request.query_params)
    if kind.startswith("multipart/"):
        raise Refused(415, f"send JSON, or a form as {FORM}")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is not UTF-8 (byte {error.start})") from None
    if kind == FORM and not text.lstrip().startswith("{"):  # clients such as curl call all that they send a form
        return _form(text)
    try:
        fields = parse_json(text)
    except ValueError as error:
        raise Refused(400, f"the body is {error}") from None
    if not isinstance(fields, dict):
        raise Refused(400, "the body is no JSON object: send fields such as q, source and target")
    return fields


async def _body(request: Request, limits: Limits) -> bytes:
    declared = request.headers.get("content-length", "")
    most_read = max(limits.bytes, MOST_DISCARDED)
    if declared.isdecimal() and int(declared[:15]) > most_read:
        raise _too_large(limits)
    parts: list[bytes] = []

    async def read() -> None:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > most_read:
                break
            # What is too large is read, if not kept: a client that still sends as the connection ends gets no answer.
            if size <= limits.bytes:
                parts.append(part)
        if size > limits.bytes:
            raise _too_large(limits)

    try:
        await asyncio.wait_for(read(), limits.seconds_to_send)
    except (asyncio.TimeoutError, TimeoutError):
        raise Refused(408, f"the request was not sent whole within {limits.seconds_to_send:g} seconds") from None
    except ClientDisconnect:
        raise Refused(400, "the request was not sent whole") from None
    return b"".join(parts)


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"more than {limits.bytes} bytes: send at most {limits.characters} characters of text")


def _form(text: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except UnicodeDecodeError:
        raise Refused(400, "the form is not UTF-8") from None
    except ValueError:
        raise Refused(400, f"the form has more than {MOST_FIELDS} fields") from None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name == "q" and name in fields:
            before = fields[name]
            fields[name] = [*(before if isinstance(before, list) else [before]), value]
        else:
            fields[name] = value
    return fields


def wanted(fields: Mapping[str, Any], facts: Facts, limits: Limits) -> Wanted:
    """What a request's fields ask for. Raises Refused."""
    texts, listed = texts_of(fields, limits)
    source, target = (canonical(_text(fields, name)) for name in ("source", "target"))
    _check_direction(source, target, facts)
    kind = fields.get("format", "text")
    if kind != "text":
        raise Refused(400, f"format {_shown(kind)} is not known: send text")
    alternatives = _whole(fields, "alternatives", facts.beam - 1)
    routing = fields.get("routing", False) in (True, "true", "1")
    if routing and not facts.strata:
        raise Refused(400, "routing: the model is dense, or an ensemble, and has no visits to tell")
    return Wanted(texts, listed, source, target, alternatives, routing, _capacity(fields, facts))


def texts_of(fields: Mapping[str, Any], limits: Limits) -> tuple[tuple[str, ...], bool]:
    """The texts in field q, and whether they are a list. Raises Refused, with 413 for too much."""
    given = fields.get("q")
    if given is None:
        raise Refused(400, "q is missing: the text to translate")
    texts = given if isinstance(given, list) else [given]
    for text in texts:
        if not isinstance(text, str):
            raise Refused(400, f"q must be a text or a list of texts, not {type(text).__name__}")
    characters, lines = sum(map(len, texts)), sum(text.count("\n") + 1 for text in texts)
    if characters > limits.characters:
        raise Refused(413, f"q has {characters} characters, and a request may have {limits.characters}")
    if lines > limits.lines:
        raise Refused(413, f"q has {lines} lines, and a request may have {limits.lines}")
    return tuple(texts), isinstance(given, list)


def key_of(request: Request, fields: Mapping[str, Any]) -> str | None:
    """The API key: a field, or a header (Authorization: Bearer KEY)."""
    key = fields.get("api_key")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return key if isinstance(key, str) and key else (token.strip() if scheme.lower() == "bearer" else None)


def _check_direction(source: str, target: str, facts: Facts) -> None:
    for name, language in (("source", source), ("target", target)):
        if language not in facts.targets and (name, language) != ("source", AUTO):
            raise Refused(400, f"{name} {_shown(language)} is not known: the model knows {', '.join(facts.targets)}")
    if source == target:
        raise Refused(400, f"source and target are both {source}")
    possible = tuple(dict.fromkeys(one for targets in facts.targets.values() for one in targets))
    if target not in possible:
        raise Refused(400, f"the model cannot translate into {target}; it can into {', '.join(possible)}")


def _capacity(fields: Mapping[str, Any], facts: Facts) -> str | None:
    given = fields.get("capacity")
    if given in (None, ""):
        return None
    if not facts.dial:
        raise Refused(400, "capacity: the model has no strata, so no capacity dial")
    try:
        dial = Capacity.of(given if isinstance(given, str) else "")
    except UserError as error:
        raise Refused(400, one_line(error).removeprefix("error: ")) from None
    if dial.dial == "mean" or (dial.dial == "bias" and abs(dial.value) > DIAL):
        raise Refused(400, f"capacity {dial}: a request may have bias=B from -{DIAL:g} to {DIAL:g}, or visits=N")
    return str(dial)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(400, f"{name} is missing: a language, such as those that /languages lists")
    return value


def _whole(fields: Mapping[str, Any], name: str, most: int) -> int:
    value = fields.get(name, 0)
    if isinstance(value, str) and value.isdecimal() and value.isascii():
        value = int(value[:9])
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise Refused(400, f"{name} is {_shown(value)}: it must be a whole number from 0 to {most}")
    return value


def _shown(value: Any) -> str:
    """A value of a stranger's in a message: short, and printable."""
    text = ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."
