"""Tensors beside a checkpoint: written by any number of ranks, read by any other, and whole or not there."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from benchmarks.local_ranks import on_ranks
from smoe_mt.checkpoints import sharded
from smoe_mt.checkpoints.reading import check_whole, folder_named_by, open_checkpoint, read_checkpoint, tied_names
from smoe_mt.checkpoints.sharded import OPTIMISER, PARTS, SHARDS, Shards, fill, free_folder, remove_unnamed, split
from smoe_mt.checkpoints.writing import write, write_sharded
from smoe_mt.errors import UserError
from tests.toy import smallest_settings

EXPERTS = 5
STACK = "encoder.layers.1.block.experts.w_in"
PARAMETERS = ["embed", STACK, "norm"]


def mine_of(rank: int, ranks: int) -> Callable[[str, int], Sequence[int]]:
    return lambda name, entries: range(rank, entries, ranks)


def whole_state() -> dict[str, Any]:
    """A checkpoint of a model of three parameters, of which one is a stack of experts and one has two names."""
    generator = torch.Generator().manual_seed(1)
    embed, norm = (torch.randn(shape, generator=generator) for shape in ((8, 3), (3,)))
    stack = torch.randn(EXPERTS, 4, 3, generator=generator)
    weights = {"embed": embed, "project": embed, STACK: stack, "norm": norm.bfloat16(), "version": torch.tensor([3.0])}
    moments = {
        number: {"step": 7, "exp_avg": tensor * 2, "exp_avg_sq": tensor * tensor, "count": torch.tensor(number)}
        for number, tensor in enumerate((embed, stack, norm))
    }
    groups = [{"lr": 0.1, "params": [0, 1, 2]}]
    return {
        "cfg": smallest_settings(),
        "args": None,
        "model": weights,
        "optimizer_history": [{"num_updates": 7}],
        "extra_state": {"train_iterator": {"epoch": 1}},
        OPTIMISER: {"state": moments, "param_groups": groups},
    }


def state_of(rank: int, ranks: int) -> dict[str, Any]:
    """What a rank has of it: experts `rank`, `rank + ranks`, ..."""
    state = whole_state()
    numbers = list(mine_of(rank, ranks)(STACK, EXPERTS))
    state["model"][STACK] = state["model"][STACK][numbers]
    moments = state[OPTIMISER]["state"][1]
    moments |= {key: moments[key][numbers] for key in ("exp_avg", "exp_avg_sq")}
    return state


def save_as_rank(rank: int, ranks: int, path: Path) -> None:
    skeleton, tensors, tied = split(state_of(rank, ranks), PARAMETERS, mine_of(rank, ranks), {STACK: EXPERTS})
    files = sharded.write_tensors(path.parent / "shards_7", tensors)
    if rank == 0:
        write({**skeleton, SHARDS: Shards("shards_7", files, tied, PARAMETERS).state()}, path)


def load_as_rank(rank: int, ranks: int, path: Path) -> None:
    state = open_checkpoint(path)
    fill(state, path, PARTS, mine_of(rank, ranks))
    assert_same(state, state_of(rank, ranks))


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert {key for key in found if key != SHARDS} == set(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    else:
        assert found == expected


@pytest.fixture(scope="module", params=[1, 2, 4])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By so many ranks, each of which has a part of the experts."""
    path = tmp_path_factory.mktemp(f"by{request.param}") / "checkpoint_1_7.pt"
    on_ranks(request.param, save_as_rank, request.param, path)
    assert len(list((path.parent / "shards_7").iterdir())) == request.param
    return path


@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks_reads_its_part(written: Path, ranks: int) -> None:
    on_ranks(ranks, load_as_rank, ranks, written)


def test_one_process_without_a_group_reads_all_of_it(written: Path) -> None:
    check_whole(written)
    state = read_checkpoint(written, PARTS)
    assert_same(state, whole_state())
    assert state["model"]["embed"] is state["model"]["project"]
    assert tied_names(open_checkpoint(written)) == {"project": "embed"}


def test_the_file_itself_holds_no_tensors_but_their_shapes(written: Path) -> None:
    state = torch.load(written, weights_only=True)
    assert state["model"][STACK].is_meta and state["model"][STACK].shape == (EXPERTS, 4, 3)
    assert state[OPTIMISER]["state"][1]["count"].item() == 1  # a scalar is no shape


def test_only_what_is_asked_for_is_read(written: Path) -> None:
    state = read_checkpoint(written, ("model",))
    assert not state["model"]["norm"].is_meta and state[OPTIMISER]["state"][0]["exp_avg"].is_meta


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint_last.pt"
    write_sharded(whole_state(), path)
    return path


def shard(checkpoint: Path) -> Path:
    (file,) = (checkpoint.parent / "shards_7").glob("*.safetensors")
    return file


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [(cut, "bytes were written|were written"), (flip, "is not what was written"), (Path.unlink, "is missing")],
)
def test_a_damaged_file_of_the_folder_is_named(checkpoint: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(shard(checkpoint))
    with pytest.raises(UserError, match=f"shard-00001.*{said}"):
        check_whole(checkpoint)


def test_the_header_of_a_file_may_be_damaged(checkpoint: Path) -> None:
    file = shard(checkpoint)
    file.write_bytes(b"\xff" * 9 + file.read_bytes()[9:])
    with pytest.raises(UserError, match="shards_7: the tensors of checkpoint_last.pt cannot be read"):
        fill(open_checkpoint(checkpoint), checkpoint)


def test_other_files_in_the_folder_are_not_read(checkpoint: Path) -> None:
    marker = checkpoint.parent / "ran"
    (checkpoint.parent / "shards_7" / ".metadata").write_bytes(pickle.dumps(Runs(marker)))
    (checkpoint.parent / "shards_7" / "shard-00009-model-00001-of-00001.safetensors").write_bytes(b"no tensors")
    assert_same(read_checkpoint(checkpoint, PARTS), whole_state())
    assert not marker.exists()


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("folder", ["../elsewhere", "/etc", "shards_7/..", "shards", 7])
def test_a_folder_elsewhere_is_refused(checkpoint: Path, folder: object) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state[SHARDS]["folder"] = folder
    torch.save(state, checkpoint)
    with pytest.raises(UserError, match="makes no sense"):
        check_whole(checkpoint)


def test_a_file_elsewhere_is_refused(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state[SHARDS]["files"] = {"../secret.safetensors": {"bytes": 1, "sha256": ""}}
    torch.save(state, checkpoint)
    with pytest.raises(UserError, match="makes no sense"):
        fill(open_checkpoint(checkpoint), checkpoint)


def test_a_moved_file_needs_its_folder(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    moved = checkpoint.rename(tmp_path / "moved" / checkpoint.name)
    with pytest.raises(UserError, match="is missing, and with it tensors of checkpoint_last.pt"):
        check_whole(moved)


def test_a_full_disk_on_one_rank_ends_the_writing_on_all(tmp_path: Path) -> None:
    on_ranks(2, write_onto_a_full_disk, tmp_path)
    assert list(tmp_path.iterdir()) == []


def write_onto_a_full_disk(rank: int, folder: Path) -> None:
    if rank == 1:
        sharded.fingerprint = no_room  # after the first rank has written its part
    with pytest.raises(OSError, match="No space left") as raised:
        sharded.write_tensors(folder / "shards_7", {"model.a": torch.ones(3), "model.b": torch.ones(3)})
    assert raised.value.errno == errno.ENOSPC
    distributed.barrier()


def no_room(*_: object) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While torch writes."""
    from torch.distributed.checkpoint.filesystem import FileSystem

    monkeypatch.setattr(FileSystem, "create_stream", no_room)
    with pytest.raises(OSError, match="No space left"):
        sharded.write_tensors(tmp_path / "shards_7", {"model.a": torch.ones(3)})
    assert list(tmp_path.iterdir()) == []


def test_large_tensors_go_into_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded, "BYTES_OF_A_FILE", 100)
    write_sharded(whole_state(), tmp_path / "a.pt")
    assert len(list((tmp_path / "shards_7").iterdir())) > 3
    assert_same(read_checkpoint(tmp_path / "a.pt", PARTS), whole_state())


def test_folders_that_no_checkpoint_names_are_removed(tmp_path: Path) -> None:
    for name in ("checkpoint_1_7.pt", "checkpoint_2_14.pt"):
        write_sharded(whole_state(), tmp_path / name)
    torch.save({"samples": 1}, tmp_path / "nonfinite_batch.pt")
    assert free_folder(tmp_path, 7).name == "shards_7_2"
    assert remove_unnamed(tmp_path, folder_named_by) == []
    (tmp_path / "checkpoint_1_7.pt").unlink()
    assert [path.name for path in remove_unnamed(tmp_path, folder_named_by)] == ["shards_7"]
    assert (tmp_path / "shards_7_1").is_dir()
    (tmp_path / "checkpoint_2_14.pt").write_bytes(b"damaged: which folder it names cannot be known")
    assert remove_unnamed(tmp_path, folder_named_by) == []


def test_what_others_put_into_a_folder_of_tensors_stays(tmp_path: Path) -> None:
    write_sharded(whole_state(), tmp_path / "checkpoint_1_7.pt")
    (tmp_path / "shards_7" / "notes.txt").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.safetensors").touch()
    (tmp_path / "shards_8").symlink_to("elsewhere")
    (tmp_path / "checkpoint_1_7.pt").unlink()
    remove_unnamed(tmp_path, folder_named_by)
    assert [path.name for path in (tmp_path / "shards_7").iterdir()] == ["notes.txt"]
    assert (tmp_path / "elsewhere" / "model.safetensors").exists()
