"""Downloads from a server on localhost: checksums, going on after a break, what goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.download import NotThere, cached, download, left_to_fetch, remote_size
from smoe_mt.errors import UserError
from tests.data_prep.server import Server

DATA = bytes(range(256)) * 40


def test_a_file_comes_with_its_checksum_and_is_known_again(server: Server, tmp_path: Path) -> None:
    server.files["/a.zip"] = DATA
    url, path = f"{server.url}/a.zip", tmp_path / "cache" / "a.zip"
    assert cached(url, path) is None
    found = download(url, path)
    assert path.read_bytes() == DATA and found.size == len(DATA)
    assert cached(url, path) == found
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.zip", "a.zip.json"]


def test_it_goes_on_where_the_connection_broke_off(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = DATA
    server.hang_up_after = [3000, 2000]
    download(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.asked == [("GET", None), ("GET", "bytes=3000-"), ("GET", "bytes=5000-")]


def test_after_three_breaks_another_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = DATA
    server.hang_up_after = [1000, 1000, 1000]
    with pytest.raises(UserError, match="broke 3 times; run again to continue"):
        download(f"{server.url}/a", tmp_path / "a")
    assert not (tmp_path / "a").exists() and left_to_fetch(tmp_path / "a", len(DATA)) == len(DATA) - 3000
    download(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA and server.asked[-1] == ("GET", "bytes=3000-")


def test_a_file_that_changed_meanwhile_is_begun_anew(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = DATA
    server.hang_up_after = [1000, 1000, 1000]
    with pytest.raises(UserError):
        download(f"{server.url}/a", tmp_path / "a")
    server.files["/a"], server.tag = DATA[::-1], '"two"'
    download(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA[::-1]


def test_a_part_that_is_whole_already_is_taken(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = DATA
    (tmp_path / "a.part").write_bytes(DATA)
    (tmp_path / "a.part.json").write_text('{"tag": "\\"one\\""}')
    download(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA


def test_another_checksum_than_expected_is_said_and_the_file_kept(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = DATA
    with pytest.raises(UserError, match="has the checksum .* not 00ff as expected"):
        download(f"{server.url}/a", tmp_path / "a", expected="00ff")
    assert not (tmp_path / "a").exists() and (tmp_path / "a.wrong").read_bytes() == DATA


def test_a_file_damaged_in_the_cache_is_said_and_stays(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = DATA
    download(f"{server.url}/a", tmp_path / "a")
    (tmp_path / "a").write_bytes(b"damaged")
    with pytest.raises(UserError, match="changed or damaged"):
        cached(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").exists()


def test_sizes_are_known_before(server: Server) -> None:
    server.files["/a"] = DATA
    assert remote_size(f"{server.url}/a") == len(DATA)
    assert server.asked == [("HEAD", None)]


def test_a_server_may_not_tell_sizes(server: Server) -> None:
    server.files["/a"], server.refused = DATA, {"HEAD"}
    assert remote_size(f"{server.url}/a") is None


def test_a_file_that_is_gone(server: Server, tmp_path: Path) -> None:
    with pytest.raises(NotThere):
        download(f"{server.url}/a", tmp_path / "a")


def test_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be reached .*is there a network"):
        download("http://127.0.0.1:9/a", tmp_path / "a")
