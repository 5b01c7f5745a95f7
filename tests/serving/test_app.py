"""What requests get, in the form of LibreTranslate, from a worker without a model."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smoe_mt.generation import colours
from smoe_mt.serving.batching import Batcher
from smoe_mt.serving.limits import Keys, Limits, RateLimiter
from smoe_mt.serving.metrics import Metrics
from tests.serving.fakes import FACTS, IMPOSSIBLE, Capitals

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from smoe_mt.serving import requests
from smoe_mt.serving.app import Service, create_app

FINNISH = "Tämä on suomenkielinen lause, jossa on monta sanaa."
SWEDISH = "Det här är en svensk mening som har många ord i sig."
MakeClient = Callable[..., TestClient]


@pytest.fixture
def worker() -> Capitals:
    return Capitals()


@pytest.fixture
def make_client(worker: Capitals) -> Iterator[MakeClient]:
    opened: list[TestClient] = []

    def make(**settings: Any) -> TestClient:
        metrics = Metrics()
        batcher = Batcher(lambda: worker, metrics, waiting_lines=4)
        facts = settings.pop("facts", FACTS)
        batcher.start()
        client = TestClient(create_app(Service(facts, batcher, metrics, **settings)), raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        return client

    yield make
    worker.gate.set()
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    return make_client()


def translate(client: TestClient, **fields: Any) -> Any:
    return client.post("/translate", json={"source": "fi", "target": "en", **fields})


def test_a_text_gets_a_text(client: TestClient) -> None:
    assert translate(client, q="hei").json() == {"translatedText": "HEI"}


def test_a_list_gets_a_list_and_lines_stay_lines(client: TestClient) -> None:
    assert translate(client, q=["a\nb", "", "c"]).json() == {"translatedText": ["A\nB", "", "C"]}
    assert translate(client, q=[]).json() == {"translatedText": []}


def test_alternatives(client: TestClient) -> None:
    assert translate(client, q="a\nb", alternatives=2).json() == {
        "translatedText": "A\nB",
        "alternatives": ["A!\nB!", "A!!\nB!!"],
    }
    assert translate(client, q=["a"], alternatives=1).json()["alternatives"] == [["A!"]]


def test_forms_are_read_as_json_is(client: TestClient) -> None:
    form = {"q": "hei ä", "source": "fi", "target": "en", "alternatives": "1"}
    assert client.post("/translate", data=form).json() == {"translatedText": "HEI Ä", "alternatives": ["HEI Ä!"]}
    assert client.post("/translate", params=form).json()["translatedText"] == "HEI Ä"
    curl = b'{"q": "a", "source": "fi", "target": "en"}'
    two = b"q=a&q=b&source=fi&target=en"
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/translate", content=two, headers=kind).json() == {"translatedText": ["A", "B"]}
    assert client.post("/translate", content=curl, headers=kind).json() == {"translatedText": "A"}


def test_the_source_of_each_text_is_detected(client: TestClient, worker: Capitals) -> None:
    answer = translate(client, q=[FINNISH, SWEDISH, FINNISH], source="auto").json()
    assert answer["translatedText"] == [FINNISH.upper(), SWEDISH.upper(), FINNISH.upper()]
    assert [one["language"] for one in answer["detectedLanguage"]] == ["fi", "sv", "fi"]
    assert {one.source for batch in worker.batches for one in batch} == {"fi", "sv"}


def test_text_that_is_in_the_target_language_stays(client: TestClient) -> None:
    assert translate(client, q=SWEDISH, source="auto", target="sv").json()["translatedText"] == SWEDISH


def test_detect(client: TestClient) -> None:
    found = client.post("/detect", json={"q": FINNISH}).json()
    assert found[0]["language"] == "fi" and found[0]["confidence"] > 90
    assert {one["language"] for one in found} == {"fi", "sv", "en"}, "no others than the model's"


def test_routing_and_capacity_reach_the_worker(client: TestClient, worker: Capitals) -> None:
    answer = translate(client, q="a\nb", routing=True, capacity="bias=0.50").json()
    assert [segment["source"] for segment in answer["routing"]] == ["a", "b"]
    assert worker.batches[-1][0].capacity == "bias=0.5" and worker.batches[-1][0].routing


def test_what_the_server_says_of_itself(client: TestClient) -> None:
    assert client.get("/languages").json()[0] == {"code": "fi", "name": "Finnish", "targets": ["sv", "en"]}
    settings = client.get("/frontend/settings").json()
    assert settings["charLimit"] == 20_000 and settings["keyRequired"] is False
    assert client.get("/model").json()["dial"] == {"least": -4.0, "most": 4.0, "step": 0.25}
    assert client.get("/health").json() == {"status": "ok"}
    translate(client, q="a")
    assert 'requests_total{path="/translate",status="200"} 1' in client.get("/metrics").text


BAD_FIELDS = [
    ({}, 400, "q is missing"),
    ({"q": 5}, 400, "q must be a text or a list of texts, not int"),
    ({"q": ["a", None]}, 400, "not NoneType"),
    ({"q": "a", "source": "xx"}, 400, "source 'xx' is not known: the model knows fi, sv, en, aa"),
    ({"q": "a", "target": "auto"}, 400, "target 'auto' is not known"),
    ({"q": "a", "target": "fi"}, 400, "source and target are both fi"),
    ({"q": "a", "target": "aa"}, 400, "cannot translate into aa"),
    ({"q": "a", "target": None}, 400, "target is missing"),
    ({"q": "a", "source": "\x1b[31m" * 40}, 400, "is not known"),
    ({"q": "a", "format": "html"}, 400, "format 'html' is not known: send text"),
    ({"q": "a", "alternatives": 5}, 400, "from 0 to 4"),
    ({"q": "a", "alternatives": True}, 400, "alternatives is True"),
    ({"q": "a", "alternatives": -1}, 400, "alternatives is -1"),
    ({"q": "a", "capacity": "much"}, 400, "capacity is 'much'"),
    ({"q": "a", "capacity": 3}, 400, "capacity is ''"),
    ({"q": "a", "capacity": "mean=1.5"}, 400, "bias=B from -4 to 4, or visits=N"),
    ({"q": "a", "capacity": "bias=9"}, 400, "bias=B from -4 to 4, or visits=N"),
    ({"q": "x" * 20_001}, 413, "20001 characters, and a request may have 20000"),
    ({"q": "\n" * 500}, 413, "501 lines, and a request may have 500"),
    ({"q": IMPOSSIBLE}, 400, "it cannot be done"),
]


@pytest.mark.parametrize(("fields", "status", "match"), BAD_FIELDS, ids=lambda value: str(value)[:30])
def test_a_mistake_gets_a_status_and_one_line(client: TestClient, fields: Any, status: int, match: str) -> None:
    check_refused(translate(client, **fields), status, match)
    assert translate(client, q="after").json() == {"translatedText": "AFTER"}


BAD_BODIES = [
    (b"\xff\xfe{", 400, "not UTF-8"),
    (b"{", 400, "not valid JSON"),
    (b"[1]", 400, "no JSON object"),
    (b"NaN", 400, "no JSON object"),
    (b'{"q": "\\ud800", "source": "fi", "target": "en"}', 400, "surrogate"),
    (b"[" * 20_000, 400, "nested deeper"),
    (b'{"q": ' + b"[" * 100 + b"]" * 100 + b"}", 400, "nested deeper"),
    (b'"' + b"x" * 400_000 + b'"', 413, "more than 305536 bytes"),
]


@pytest.mark.parametrize(("body", "status", "match"), BAD_BODIES, ids=lambda value: str(value)[:20])
def test_bytes_that_are_no_request(client: TestClient, body: bytes, status: int, match: str) -> None:
    check_refused(client.post("/translate", content=body), status, match)
    check_refused(client.post("/detect", content=body), status, match)


def test_a_body_without_a_length_is_counted_as_it_comes(client: TestClient) -> None:
    check_refused(client.post("/translate", content=(b"x" * 1000 for _ in range(400))), 413, "more than 305536 bytes")


def test_a_request_may_be_as_large_as_the_characters_that_are_allowed(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is the most that is read of a request that is too large."""
    monkeypatch.setattr(requests, "MOST_DISCARDED", 1000)
    body = json.dumps({"source": "fi", "target": "en", "q": "\U0001f600" * 9_999}).encode()
    assert len(body) > 100_000
    client = make_client(limits=Limits(characters=10_000))
    answer = client.post("/translate", content=(body[start : start + 1000] for start in range(0, len(body), 1000)))
    assert (answer.status_code, client.post("/translate", content=body).status_code) == (200, 200)


def test_a_form_that_is_not_utf8(client: TestClient) -> None:
    kind = {"content-type": "application/x-www-form-urlencoded"}
    body = b"q=%ff&source=fi&target=en"
    check_refused(client.post("/translate", content=body, headers=kind), 400, "not UTF-8")
    check_refused(client.post("/translate", files={"q": b"a"}), 415, "send JSON, or a form")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/translate", 405)])
def test_wrong_addresses_get_json_too(client: TestClient, method: str, path: str, status: int) -> None:
    check_refused(client.request(method, path), status, "address")


def check_refused(response: Any, status: int, match: str) -> None:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"] and match in response.json()["error"]
    assert response.text.count("\n") == 0 and response.text.isprintable()


def test_keys(make_client: MakeClient) -> None:
    client = make_client(keys=Keys(["secret"]), rate=RateLimiter(3))
    check_refused(translate(client, q="a"), 403, "needs an API key")
    check_refused(translate(client, q="a", api_key="wrong"), 403, "unknown API key")
    assert translate(client, q="a", api_key="secret").status_code == 200
    bearer = client.post(
        "/translate", json={"q": "a", "source": "fi", "target": "en"}, headers={"authorization": "Bearer secret"}
    )
    assert bearer.status_code == 200
    assert client.get("/frontend/settings").json()["keyRequired"] is True
    check_refused(client.post("/detect", json={"q": "a"}), 403, "needs an API key")


def test_rate(make_client: MakeClient) -> None:
    client = make_client(rate=RateLimiter(2))
    assert [translate(client, q="a").status_code for _ in range(3)] == [200, 200, 429]
    refused = translate(client, q="a")
    check_refused(refused, 429, "more than 2 requests a minute")
    assert int(refused.headers["retry-after"]) >= 1


def test_an_answer_that_takes_too_long_and_a_queue_that_is_full(make_client: MakeClient, worker: Capitals) -> None:
    client = make_client(limits=Limits(seconds=0.3))
    worker.gate.clear()
    slow = threading.Thread(target=translate, args=(client,), kwargs={"q": "first"})
    slow.start()
    assert worker.entered.wait(10)
    check_refused(translate(client, q="late"), 504, "no translation within 0.3 seconds")
    slow.join()
    patient = make_client(limits=Limits(seconds=20))
    worker.entered.clear()
    threads = []
    for text in ("first", "a\nb\nc\nd"):
        threads.append(threading.Thread(target=translate, args=(patient,), kwargs={"q": text}))
        threads[-1].start()
        assert worker.entered.wait(10)
    while "waiting_lines 4" not in patient.get("/metrics").text:
        pass
    check_refused(translate(patient, q="e"), 503, "too many requests are waiting")
    worker.gate.set()
    for thread in threads:
        thread.join()


def test_a_dense_model_has_no_routing_to_tell(make_client: MakeClient) -> None:
    from dataclasses import replace

    client = make_client(facts=replace(FACTS, strata=0, dial=False))
    check_refused(translate(client, q="a", routing=True), 400, "the model is dense")
    check_refused(translate(client, q="a", capacity="bias=1"), 400, "no strata")
    assert client.get("/model").json()["dial"] is None


def test_an_error_of_our_own_is_no_end(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client()
    monkeypatch.setattr("smoe_mt.serving.app.wanted", lambda *_: 1 / 0)
    check_refused(translate(client, q="a"), 500, "the server failed")
    assert client.get("/health").status_code == 200


class TestPage:
    """One file that needs nothing from elsewhere."""

    @pytest.fixture
    def page(self, client: TestClient) -> str:
        return client.get("/").text

    def test_nothing_comes_from_another_host(self, client: TestClient, page: str) -> None:
        assert not re.findall(r"https?://|//\w", re.sub(r"^\s*//.*$", "", page, flags=re.MULTILINE).replace("<!--", ""))
        policy = client.get("/").headers["content-security-policy"]
        assert "default-src 'none'" in policy and policy.count("'sha256-") == 2 and "unsafe" not in policy

    def test_every_field_has_a_name_for_who_hears_it(self, page: str) -> None:
        fields = re.findall(r'<(?:select|textarea|input)[^>]* id="(\w+)"', page)
        assert set(fields) == {"source", "target", "text", "nbest", "routing", "dial", "key"}
        for name in fields:
            inside = re.search(rf'<label[^>]*>[^<]*<(?:select|input)[^>]* id="{name}"', page)
            assert inside or f'<label for="{name}"' in page, name

    def test_the_scale_is_that_of_the_terminal_and_the_report(self, page: str) -> None:
        mixed = re.findall(r"mix\((\d+), (\d+)\)", page)
        assert mixed == [(str(low), str(high)) for low, high in zip(colours.LIGHT, colours.DARK)]
        assert f"share > {colours.TURN}" in page

    def test_its_script_writes_text_and_no_markup(self, page: str) -> None:
        assert "innerHTML" not in page and "document.write" not in page and json.dumps("textContent")[1:-1] in page
