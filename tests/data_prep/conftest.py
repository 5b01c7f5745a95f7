"""Fixtures of the data preparation's tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.data_prep.server import Server, running
from tests.data_prep.toy import toy_lines, write_tsv


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder with two pairs that share English sentences."""
    folder = tmp_path / "toy"
    write_tsv(folder / "xaa-en.tsv", toy_lines(150))
    write_tsv(folder / "en-xbb.tsv", [(other, one[::-1]) for one, other in toy_lines(150)])
    return folder


@pytest.fixture
def fake_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a shell script under a client's name on a PATH that has no real client."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "cp", "echo", "cat", "mkdir", "dpkg-deb", "tar", "test", "xz", "rm"):
        for place in os.defpath.split(os.pathsep) + ["/usr/bin", "/bin"]:
            if place and (Path(place) / tool).exists():
                (folder / tool).symlink_to(Path(place) / tool)
                break
    monkeypatch.setenv("PATH", str(folder))

    def add(name: str, script: str) -> None:
        client = folder / name
        client.write_text("#!/bin/sh\n" + script + "\n")
        client.chmod(0o755)

    return add


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server on localhost."""
    with running() as found:
        yield found
