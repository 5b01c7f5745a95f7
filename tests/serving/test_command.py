"""The server as a program: real sockets, a real worker, signals, and the page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest

from smoe_mt import cli
from smoe_mt.serving.batching import Batcher
from smoe_mt.serving.metrics import Metrics
from tests.conftest import TrainedRun
from tests.serving.fakes import Capitals

uvicorn = pytest.importorskip("uvicorn")
command = pytest.importorskip("smoe_mt.serving.command")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 300


class Running:
    """A server that was started by its command line at a free port."""

    def __init__(self, *options: str) -> None:
        line = [
            sys.executable,
            "-m",
            "smoe_mt.cli",
            "serve",
            *options,
            "--port",
            "0",
            "--device",
            "cpu",
            "--timeout",
            "300",
        ]
        self.process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert found, said
        self.port = int(found[1])
        self.address = f"http://127.0.0.1:{self.port}"

    def post(self, **fields: Any) -> tuple[int, Any]:
        body = json.dumps({"source": "aa", "target": "en", **fields}).encode()
        try:
            with urllib.request.urlopen(f"{self.address}/translate", body, timeout=SECONDS) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.address + path, timeout=SECONDS) as answer:
            return str(answer.read().decode())

    def worker(self) -> int:
        """Its worker's process."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = [int(pid) for each in children for pid in each.read_text().split()]
        return next(pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())

    def end(self) -> tuple[int, str]:
        """Stop it by SIGTERM: its exit code, and what it said."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said


@contextmanager
def started(run: TrainedRun) -> Iterator[Running]:
    running = Running(str(run.folder))
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


@pytest.fixture(scope="module")
def server(trained_run: TrainedRun) -> Iterator[Running]:
    with started(trained_run) as running:
        yield running


@pytest.mark.slow
def test_a_killed_worker_loses_no_request(server: Running) -> None:
    """Requests go on from several clients while the worker is killed."""
    texts = [f"fofo fila {'lelu ' * (n % 5)}" for n in range(40)]
    expected = {text: server.post(q=text) for text in set(texts)}
    with ThreadPoolExecutor(8) as clients:
        answers = clients.map(lambda text: server.post(q=text), texts)
        os.kill(server.worker(), signal.SIGKILL)
        assert list(answers) == [expected[text] for text in texts]
    assert "worker_restarts_total 1.0\n" in server.get("/metrics")
    assert json.loads(server.get("/health")) == {"status": "ok"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"POST /translate HTTP/1.1\r\ncontent-length: 100\r\n\r\n{",
        b"POST /translate HTTP/1.1\r\ncontent-length: -5\r\n\r\n{}",
        b"POST /translate HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost:",
    ],
    ids=lambda sent: repr(sent[:24]),
)
def test_half_requests_and_no_requests_harm_nobody(server: Running, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(sent)
        time.sleep(0.05)
    assert server.post(q="fofo")[0] == 200


def test_a_connection_that_does_not_get_on_is_closed() -> None:
    class Connection:
        def __init__(self, cycle: Any) -> None:
            self.cycle, self.transport, self.closed = cycle, self, False

        def close(self) -> None:
            self.closed = True

    busy = Connection(SimpleNamespace(response_complete=False))
    silent, waiting = Connection(None), Connection(SimpleNamespace(response_complete=True))
    server = command.Server(uvicorn.Config(app=None), Batcher(lambda: Capitals(), Metrics()))  # type: ignore[arg-type]
    server.server_state.connections = {busy, silent, waiting}  # type: ignore[arg-type]
    server._close_stalled(0.0)
    server._close_stalled(command.SECONDS_FOR_HEADERS)
    assert not (silent.closed or waiting.closed)
    server._close_stalled(command.SECONDS_FOR_HEADERS + 1)
    assert silent.closed and waiting.closed and not busy.closed


@pytest.mark.slow
def test_a_signal_lets_it_finish_its_work(trained_run: TrainedRun) -> None:
    long = "\n".join(["fofo fila lelu fila gibe samo"] * 100)
    with started(trained_run) as running, ThreadPoolExecutor(4) as clients:
        answers = [clients.submit(running.post, q=long) for _ in range(4)]
        asked = f"smoe_mt_characters_total {4.0 * len(long)}\n"
        while asked not in running.get("/metrics"):
            time.sleep(0.01)
        code, said = running.end()
        assert [answer.result()[0] for answer in answers] == [200] * 4
    assert code == 0 and said == ""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine: a page cannot be opened")
def test_the_page_in_a_browser(server: Running, trained_run: TrainedRun, tmp_path: Path) -> None:
    """The address fills the form, which asks the server; its script builds the candidates and the tokens."""
    line = (trained_run.data / "text" / "test.aa-en.aa").read_text().splitlines()[0]
    _, expected = server.post(q=line, alternatives=2, routing=True)
    asked = urlencode({"q": line, "source": "aa", "target": "en", "nbest": 3, "routing": 1})
    assert BROWSER is not None
    shown = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown += ["--virtual-time-budget=10000", "--dump-dom", f"{server.address}/#{asked}"]
    done = subprocess.run(shown, check=False, capture_output=True, text=True, timeout=SECONDS)
    page = re.sub(r"<(script|style)>.*?</\1>", "", done.stdout, flags=re.DOTALL)
    assert re.search(r'<output[^>]*lang="en"[^>]*>(.*?)</output>', page)[1] == expected["translatedText"], done.stderr
    assert page.count('aria-pressed="true"') == 1 and page.count('aria-pressed="false"') == 2
    candidate = expected["routing"][0]["candidates"][0]
    tokens = [*candidate["source"], *candidate["target"]]
    assert [float(one) for one in re.findall(r'data-visits="([\d.]+)"', page)] == [one["visits"] for one in tokens]
    first = next(iter(tokens[0]["experts"].items()))
    assert f"{first[0]}: expert" in page and f"{first[1][0][0]}" in page


def test_a_taken_port_is_said_before_a_model_is_loaded(
    trained_run: TrainedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    with command.bound("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", str(trained_run.folder), "--port", port]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot listen at 127.0.0.1, port {port}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--host", "999.1.2.3"], "--host 999.1.2.3: no address of this machine"),
        (["--port", "70000"], "--port"),
        (["--api-keys", "/nowhere/keys"], "no such file"),
        (["--capacity", "much"], "capacity is 'much'"),
        (["--beam", "0"], "--beam"),
    ],
)
def test_wrong_arguments(
    trained_run: TrainedRun, capsys: pytest.CaptureFixture[str], options: list[str], match: str
) -> None:
    assert cli.main(["serve", str(trained_run.folder), *options]) == 2
    error = capsys.readouterr().err
    assert match in error and error.count("\n") == 1
