"""The server's addresses, in LibreTranslate's form, and the page."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smoe_mt import language_identifier
from smoe_mt.errors import UserError
from smoe_mt.serving.batching import Batcher
from smoe_mt.serving.language_names import name_of
from smoe_mt.serving.limits import Keys, Limits, RateLimiter, Refused
from smoe_mt.serving.metrics import CONTENT_TYPE, Metrics
from smoe_mt.serving.requests import AUTO, DIAL, Wanted, key_of, read_fields, texts_of, wanted
from smoe_mt.serving.wire import Answer, Ask, Facts

ADDRESSES = ("/", "/translate", "/languages", "/detect", "/frontend/settings", "/model", "/health", "/metrics")
DIAL_STEP = 0.25


@dataclass(frozen=True)
class Service:
    """What the addresses need."""

    facts: Facts
    batcher: Batcher
    metrics: Metrics
    limits: Limits = field(default_factory=Limits)
    rate: RateLimiter = field(default_factory=RateLimiter)
    keys: Keys = field(default_factory=lambda: Keys([]))

    async def fields(self, request: Request) -> dict[str, Any]:
        """Those of a request that may be served. Raises Refused for one that is too large, without a key, or one too many."""
        found = await read_fields(request, self.limits)
        key = key_of(request, found)
        self.keys.check(key)
        address = request.client.host if request.client else ""
        self.rate.check(f"key {key}" if self.keys.required else address)
        return found

    async def answers(self, asks: Sequence[Ask]) -> list[list[Answer]]:
        """Of all asks of one request. Raises Refused, with 504 where it takes too long."""
        futures: list[asyncio.Future[list[Answer]]] = []
        try:
            for ask in asks:
                futures.append(asyncio.wrap_future(self.batcher.submit(ask)))
            return await asyncio.wait_for(asyncio.gather(*futures), self.limits.seconds)
        except (asyncio.TimeoutError, TimeoutError):
            raise Refused(504, f"no translation within {self.limits.seconds:g} seconds; try again later") from None
        finally:
            for future in futures:
                future.cancel()


def create_app(service: Service) -> FastAPI:
    """The application; when it ends, what waits has been answered and the workers have gone."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.stop)

    # No pages of FastAPI's own: their scripts come from another host.
    app = FastAPI(title="smoe_mt", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    _add_translation(app, service)
    _add_descriptions(app, service)
    _add_page(app)
    app.add_exception_handler(Refused, _refuse)
    app.add_exception_handler(HTTPException, _refuse_address)
    app.add_exception_handler(Exception, _fail)
    app.add_middleware(Measured, metrics=service.metrics)
    return app


def _add_translation(app: FastAPI, service: Service) -> None:
    @app.post("/translate")
    async def translate(request: Request) -> Response:
        start = time.monotonic()
        fields = await service.fields(request)
        answer = await _translated(service, wanted(fields, service.facts, service.limits))
        service.metrics.request_seconds.observe(time.monotonic() - start)
        return _json(answer)

    @app.post("/detect")
    async def detect(request: Request) -> Response:
        texts, _ = texts_of(await service.fields(request), service.limits)
        found = await asyncio.to_thread(_identify, "\n".join(texts), tuple(service.facts.targets))
        return _json([{"language": code, "confidence": _percent(share)} for code, share in found[:5]])


def _add_descriptions(app: FastAPI, service: Service) -> None:
    facts = service.facts

    @app.get("/languages")
    async def languages() -> Response:
        return _json(
            [{"code": one, "name": name_of(one), "targets": list(targets)} for one, targets in facts.targets.items()]
        )

    @app.get("/frontend/settings")
    async def settings() -> Response:
        source, targets = next((one, targets) for one, targets in facts.targets.items() if targets)
        languages = {"source": {"code": AUTO, "name": "Detect"}, "target": _language(targets[0])}
        if not _can_identify():
            languages["source"] = _language(source)
        return _json(
            {
                "apiKeys": service.keys.required,
                "keyRequired": service.keys.required,
                "charLimit": service.limits.characters,
                "frontendTimeout": 500,
                "language": languages,
                "suggestions": False,
                "supportedFilesFormat": [],
            }
        )

    @app.get("/model")
    async def model() -> Response:
        return _json(
            {
                "name": facts.name,
                "strata": facts.strata,
                "blocks": facts.blocks,
                "dial": {"least": -DIAL, "most": DIAL, "step": DIAL_STEP} if facts.dial else None,
                "beam": facts.beam,
                "detects": _can_identify(),
            }
        )

    @app.get("/health")
    async def health() -> Response:
        if service.batcher.ready:
            return _json({"status": "ok"})
        return _json({"status": "no worker is ready", "error": "no worker is ready"}, 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    page = files("smoe_mt.serving").joinpath("page/index.html").read_text(encoding="utf-8")
    headers = {
        "content-security-policy": page_policy(page),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(page, headers=headers)


def page_policy(page: str) -> str:
    """A policy under which the page's own script and style run, by their hashes, and nothing from anywhere else."""

    def hashes(tag: str) -> str:
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(p.encode()).digest()).decode()}'" for p in parts)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def _translated(service: Service, want: Wanted) -> dict[str, Any]:
    """The answer to a request for translations. Raises Refused."""
    sources, detected = [want.source] * len(want.texts), []
    if want.source == AUTO:
        guesses = await asyncio.to_thread(_detect_all, want.texts, tuple(service.facts.targets))
        sources = [code for code, _ in guesses]
        detected = [{"language": code, "confidence": _percent(share)} for code, share in guesses]
    service.metrics.characters.inc(sum(map(len, want.texts)))
    asks = _asks(want, sources)
    found = await service.answers(asks)
    rest = {ask.source: iter(answers) for ask, answers in zip(asks, found, strict=True)}
    shown = []
    for text, source in zip(want.texts, sources):
        if source == want.target:  # detected: it is in that language already
            shown.append(_Shown(text, [], []))
        else:
            shown.append(_joined(list(itertools.islice(rest[source], len(text.split("\n")))), want.alternatives))
    return _answer(want, shown, detected)


def _asks(want: Wanted, sources: Sequence[str]) -> list[Ask]:
    """One for each source language."""
    lines: dict[str, list[str]] = {}
    for text, source in zip(want.texts, sources):
        if source != want.target:
            lines.setdefault(source, []).extend(text.split("\n"))
    nbest = 1 + want.alternatives
    return [Ask(tuple(each), source, want.target, nbest, want.routing, want.capacity) for source, each in lines.items()]


@dataclass(frozen=True)
class _Shown:
    """A text's translation, others, and its sentences with their tokens."""

    text: str
    alternatives: list[str]
    segments: list[dict[str, Any]]


def _joined(answers: Sequence[Answer], alternatives: int) -> _Shown:
    """The lines of a text put together again; a line with fewer candidates than another repeats its last."""
    count = max((len(answer.texts) for answer in answers), default=1)
    texts = ["\n".join(one.texts[min(place, len(one.texts) - 1)] for one in answers) for place in range(count)]
    best, *others = dict.fromkeys(texts)
    return _Shown(best, others[:alternatives], [segment for answer in answers for segment in answer.segments])


def _answer(want: Wanted, shown: Sequence[_Shown], detected: Sequence[dict[str, Any]]) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {"translatedText": [one.text for one in shown]}
    if want.alternatives:
        columns["alternatives"] = [one.alternatives for one in shown]
    if detected:
        columns["detectedLanguage"] = list(detected)
    if want.routing:
        columns["routing"] = [one.segments for one in shown]
    return columns if want.listed else {name: values[0] for name, values in columns.items()}


def _detect_all(texts: Sequence[str], languages: tuple[str, ...]) -> list[tuple[str, float]]:
    """The likeliest language of each text. Raises Refused where there is nothing to tell by."""
    found = [_identify(text, languages) for text in texts]
    if not all(found):
        raise Refused(400, "the source cannot be detected: none of the model's languages is known to the identifier")
    return [each[0] for each in found]


def _identify(text: str, languages: tuple[str, ...]) -> list[tuple[str, float]]:
    try:
        return language_identifier.identify(text, languages)
    except UserError as error:
        raise Refused(400, str(error)) from None


def _can_identify() -> bool:
    try:
        language_identifier.check()
    except UserError:
        return False
    return True


def _language(code: str) -> dict[str, str]:
    return {"code": code, "name": name_of(code)}


def _percent(share: float) -> float:
    return round(100 * share, 1)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON on one line, text as it is."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Response(body, status, headers, media_type="application/json")


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    after = {} if error.retry_after is None else {"retry-after": str(max(1, round(error.retry_after + 0.5)))}
    # What is left of the body may not have been read: the connection cannot serve another request.
    closing = {"connection": "close"} if error.status in (408, 413) else {}
    return _json({"error": error.message}, error.status, {**after, **closing})


async def _refuse_address(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: f"no such address; there are {', '.join(ADDRESSES)}", 405: "the address takes another method"}
    return _json({"error": messages.get(error.status_code, str(error.detail))}, error.status_code)


async def _fail(_request: Request, _error: Exception) -> Response:
    return _json({"error": "the server failed; its log says why"}, 500)


class Measured:
    """Counts the answered requests by address and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in ADDRESSES else "other"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        await self.app(scope, receive, sending)
