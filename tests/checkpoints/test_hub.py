"""A model that is not here: asked of the hub only where it can be meant, and told in words where it cannot be had."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from smoe_mt.checkpoints.hub import looks_like_model_id
from smoe_mt.checkpoints.locate import find_checkpoint
from smoe_mt.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("someone/nordic-smoe", True),
        ("nordic", False),
        ("someone/nordic/deeper", False),
        ("/someone/nordic", False),
        ("../nordic", False),
        ("someone/checkpoint_best.pt", False),
        ("here/nordic", False),
    ],
)
def test_what_can_be_an_id(text: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert looks_like_model_id(text) is expected


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        UserError, match=r"someone/nordic: no such folder or checkpoint; .*pip install 'smoe_mt\[hub\]'"
    ):
        find_checkpoint("someone/nordic")


def test_a_fetched_folder_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(model_id: str, allow_patterns: list[str]) -> str:
        asked.append((model_id, allow_patterns))
        (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert find_checkpoint("someone/nordic") == tmp_path / "model.safetensors"
    assert asked[0][0] == "someone/nordic"
    assert not any("*" in pattern or pattern.endswith((".py", ".pt", ".bin")) for pattern in asked[0][1])


def test_a_hub_that_does_not_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(model_id: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("nobody answers\nsecond line")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(UserError, match="did not give it .ConnectionError: nobody answers.$"):
        find_checkpoint("someone/nordic")


class Hub(BaseHTTPRequestHandler):
    """As much of a model hub as its client asks for: one model, someone/nordic, with two files that are read and one not."""

    files: ClassVar = {"model.safetensors": b"weights", "config.json": b"{}", "code.py": b"raise SystemExit"}
    commit = "0" * 40

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _content(self) -> bytes | None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/someone/nordic"):
            siblings = [{"rfilename": name} for name in self.files]
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()
            ]
            about = {"id": "someone/nordic", "sha": self.commit, "siblings": siblings, "private": False}
            return json.dumps(tree if "/tree/" in path else about).encode()
        return self.files.get(path.removeprefix(f"/someone/nordic/resolve/{self.commit}/"))

    def _answer(self, with_body: bool) -> None:
        content = self._content()
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("ETag", f'"{hashlib.sha1(content or b"").hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if with_body and content:
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_real_client_fetches_data_and_no_code(hub: str, tmp_path: Path) -> None:
    """In a process of its own: the client reads its settings once."""
    pytest.importorskip("huggingface_hub")
    program = "import sys; from smoe_mt.checkpoints.hub import fetch; print(fetch(sys.argv[1]))"
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    environment |= {"no_proxy": "127.0.0.1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {"HF_HUB_OFFLINE": "0"}  # other tests' libraries may be offline

    def fetch(model_id: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, model_id]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)

    done = fetch("someone/nordic")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().splitlines()[-1])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "model.safetensors": b"weights",
        "config.json": b"{}",
    }
    assert "UserError: someone/missing: no such folder or checkpoint here" in fetch("someone/missing").stderr
