"""An archive is read only where there is one way to read it, and before its entries cost memory."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smoe_mt.checkpoints.reading import check_whole, open_checkpoint
from smoe_mt.checkpoints.sharded import SHARDS
from smoe_mt.checkpoints.writing import write_sharded
from smoe_mt.errors import UserError
from tests.toy import smallest_settings

ENTRY, LISTED = b"PK\x03\x04", b"PK\x01\x02"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    torch.save({"cfg": smallest_settings(), "model": {"one": torch.arange(64.0), "two": torch.ones(64)}}, path)
    return path


@pytest.mark.parametrize("read", [open_checkpoint, check_whole])
def test_a_pipe_is_not_waited_for(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="it is a pipe, no file"):
        read(tmp_path / "checkpoint.pt")


def zipped_again(path: Path, compression: int) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = [(one.filename, archive.read(one)) for one in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("read", [open_checkpoint, check_whole])
def test_a_checkpoint_zipped_again_with_compression_is_refused(
    read: Callable[[Path], object], compression: int, checkpoint: Path
) -> None:
    zipped_again(checkpoint, compression)
    with pytest.raises(UserError, match="zipped again with compression"):
        read(checkpoint)


def test_a_checkpoint_zipped_again_without_compression_is_read(checkpoint: Path) -> None:
    zipped_again(checkpoint, zipfile.ZIP_STORED)
    check_whole(checkpoint)
    assert open_checkpoint(checkpoint)["model"]["one"].tolist() == list(range(64))


def test_an_archive_that_inflates_to_gigabytes_is_refused_unread(checkpoint: Path) -> None:
    with (
        zipfile.ZipFile(checkpoint, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("archive/data.pkl", "w") as stream,
    ):
        for _ in range(256):
            stream.write(bytes(1 << 20))
    with pytest.raises(UserError, match="zipped again with compression"):
        open_checkpoint(checkpoint)


def an_entry_twice(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("checkpoint/data.pkl", b"other")


def an_entry_twice_in_other_case(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("checkpoint/DATA.PKL", b"other")


def entries_that_overlap(path: Path) -> None:
    """The last entry of the list becomes the one before it."""
    content = bytearray(path.read_bytes())
    last = content.rindex(LISTED)
    before = content.rindex(LISTED, 0, last)
    content[last + 42 : last + 46] = content[before + 42 : before + 46]
    path.write_bytes(content)


def another_name_in_the_header(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"checkpoint/data.pkl", b"checkpoint/dATA.pkl", 1))


def compressed_in_the_header_alone(path: Path) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<H", content, content.index(ENTRY) + 8, zipfile.ZIP_DEFLATED)
    path.write_bytes(content)


def encrypted(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(LISTED) + 8] |= 1
    path.write_bytes(content)


def something_in_front(path: Path) -> None:
    path.write_bytes(ENTRY + bytes(60) + path.read_bytes())


def something_behind(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


Damage = Callable[[Path], None]
DAMAGES: list[Damage] = [
    *(an_entry_twice, an_entry_twice_in_other_case, entries_that_overlap, another_name_in_the_header),
    *(compressed_in_the_header_alone, encrypted, something_in_front, something_behind),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_an_archive_that_can_be_read_in_two_ways_is_refused(damage: Damage, checkpoint: Path) -> None:
    damage(checkpoint)
    with pytest.raises(UserError, match="not a whole fairseq checkpoint"):
        open_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(10**6, 10**6),
        torch.sparse_coo_tensor(torch.zeros(2, 0), torch.zeros(0), (10**9, 10**9), check_invariants=False),
        torch.empty(10**12, device="meta"),
    ],
    ids=["expanded", "sparse", "without values"],
)
@pytest.mark.parametrize("place", ["model", "optimiser"])
def test_a_tensor_without_all_of_its_elements_is_refused(tensor: torch.Tensor, place: str, tmp_path: Path) -> None:
    states = {
        "model": {"model": {"w": tensor}},
        "optimiser": {"model": {}, "last_optimizer_state": [{"state": (tensor,)}]},
    }
    torch.save(states[place], tmp_path / "x.pt")
    with pytest.raises(UserError, match="it holds a tensor"):
        open_checkpoint(tmp_path / "x.pt")


def test_values_that_hold_themselves_are_no_trap(tmp_path: Path) -> None:
    state: dict[str, object] = {"cfg": smallest_settings(), "model": {"w": torch.ones(100)}}
    state["extra_state"] = state
    torch.save(state, tmp_path / "x.pt")
    assert open_checkpoint(tmp_path / "x.pt")["model"]["w"].sum() == 100


def test_tensors_that_are_larger_than_their_files_are_not_made_room_for(tmp_path: Path) -> None:
    from smoe_mt.checkpoints.reading import read_checkpoint

    path = tmp_path / "checkpoint.pt"
    history = [{"num_updates": 1}]
    write_sharded({"cfg": smallest_settings(), "model": {"w": torch.ones(100)}, "optimizer_history": history}, path)
    state = torch.load(path, weights_only=True)
    assert state[SHARDS]
    state["model"]["w"] = torch.empty(10**13, device="meta")
    torch.save(state, path)
    with pytest.raises(UserError, match="it describes larger tensors"):
        read_checkpoint(path)
