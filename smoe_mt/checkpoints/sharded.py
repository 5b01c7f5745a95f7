"""Checkpoints of large models: the tensors are in files of their own, which all ranks write at the same time.

`checkpoint_*.pt` stays the file that fairseq names, copies and deletes. Of weights and optimiser state it has shapes only
(tensors on torch's device "meta"), and under `shards` the name of the folder next to it that holds them, with the SHA-256 of each
of its files. torch.distributed.checkpoint writes and reads the folder, in its safetensors form: whole logical tensors, whatever
the number of ranks that wrote or will read them, and nothing that could run.
"""

from __future__ import annotations

import math
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from smoe_mt.checkpoints.exported import fingerprint
from smoe_mt.checkpoints.schema import place_of
from smoe_mt.errors import UserError
from smoe_mt.moe.experts.base import SHARED
from smoe_mt.temporary_names import LONGEST_NAME, PARTIAL, holding, sync

SHARDS = "shards"  # in the checkpoint: see `Shards.state`
MODEL, OPTIMISER = "model", "last_optimizer_state"
PARTS = (MODEL, OPTIMISER)  # of a checkpoint, whose tensors go into the folder
FOLDER = re.compile(r"shards_\d{1,20}(_\d{1,5})?", re.ASCII)
EXPERTS = re.compile(rf"\.experts\.(?!{SHARED}\.)")  # in a parameter's name: a stack with an entry for each expert
FILE = re.compile(rf"[A-Za-z0-9_-]{{1,{LONGEST_NAME - 12}}}\.safetensors")
BYTES_OF_A_FILE = 1 << 30  # of a rank; a file is put together in memory before it is written
REMEDY = "take another checkpoint, or copy its folder again"

#: (name of a parameter, entries of its stack) -> the places in the stack of those experts that this rank has.
Mine = Callable[[str, int], Sequence[int]]


@dataclass(frozen=True)
class Shards:
    """What a checkpoint says of its folder. `tied`: name -> name under which the same tensor is stored."""

    folder: str
    files: Mapping[str, Mapping[str, Any]]
    tied: Mapping[str, str]
    #: Names of the parameters in the optimiser's order, after which its states are named; empty: by their numbers.
    parameters: Sequence[str] = field(default=())

    def state(self) -> dict[str, Any]:
        """Plain values."""
        files = {name: dict(one) for name, one in self.files.items()}
        return {"folder": self.folder, "files": files, "tied": dict(self.tied), "parameters": list(self.parameters)}

    @classmethod
    def of(cls, state: Mapping[str, Any], path: Path) -> Shards | None:
        """Of a checkpoint; None where it is one file. UserError for what no checkpoint of ours says."""
        found = state.get(SHARDS)
        if found is None:
            return None
        try:
            shards = cls(found["folder"], found["files"], found["tied"], found["parameters"])
            sound = bool(FOLDER.fullmatch(shards.folder)) and all(FILE.fullmatch(name) for name in shards.files)
            sound &= all(isinstance(one["bytes"], int) and one["sha256"] for one in shards.files.values())
            sound &= isinstance(shards.tied, dict) and isinstance(shards.parameters, list)
            names = [*shards.tied, *shards.tied.values(), *shards.parameters]
            sound &= all(isinstance(name, str) for name in names)
        except (KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise UserError(f"{path}: what it says of its folder of tensors makes no sense; {REMEDY}")
        return shards


def tensors_of(state: Mapping[str, Any], parameters: Sequence[str], parts: Sequence[str] = PARTS) -> Iterator[Any]:
    """(name, dictionary, key) of each tensor of at least one dimension in these parts of a checkpoint.

    Names are ``model.NAME`` and ``optimizer.NAME.exp_avg``, NAME being that of the parameter.
    """
    for part in parts:
        if part == MODEL:
            yield from _tensors_in(state[MODEL], MODEL)
        elif state.get(part) is not None:
            of_parameters = state[part].get("state", {}) if isinstance(state[part], Mapping) else {}
            names = parameters if len(parameters) == _count_parameters(state[part]) else ()
            for number, values in of_parameters.items():
                yield from _tensors_in(values, f"optimizer.{names[number] if names else number}")


def _tensors_in(values: Any, prefix: str) -> Iterator[Any]:
    for key, value in values.items():
        if isinstance(value, Tensor) and value.dim():
            yield f"{prefix}.{key}", values, key
        elif isinstance(value, MutableMapping):
            yield from _tensors_in(value, f"{prefix}.{key}")


def _count_parameters(optimiser: Mapping[str, Any]) -> int:
    return sum(len(group.get("params", ())) for group in optimiser.get("param_groups", ()))


def all_of(_name: str, entries: int) -> Sequence[int]:
    """``Mine`` of a rank that has all experts."""
    return range(entries)


# --- writing ---


def split(
    state: Mapping[str, Any],
    parameters: Sequence[str] = (),
    mine: Mine = all_of,
    counts: Mapping[str, int] | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """A checkpoint without its tensors, the tensors by name, and which names are tied to which; `state` stays as it is.

    Stacks of experts are taken apart, as ranks may have any of them: entry 3 of NAME is NAME/3. `counts`: entries of a
    parameter's stack, by its name, where `mine` are not all of them.
    """
    skeleton = {**state, **{part: _copied(state[part]) for part in PARTS if state.get(part) is not None}}
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, values, key in tensors_of(skeleton, parameters):
        tensor = values[key].detach()
        shape = tensor.shape
        kept = first.setdefault(place_of(name, tensor), name)
        if kept != name:
            tied[name] = kept
        elif EXPERTS.search(name):
            entries = (counts or {}).get(_parameter(name), len(tensor))
            tensors.update(zip(_apart(name, mine(_parameter(name), entries)), tensor.contiguous(), strict=True))
            shape = torch.Size((entries, *shape[1:]))
        else:
            tensors[name] = tensor.contiguous()
        values[key] = torch.empty(shape, dtype=tensor.dtype, device="meta")
    return skeleton, tensors, tied


def _apart(name: str, experts: Sequence[int]) -> list[str]:
    return [f"{name}/{expert}" for expert in experts]


def _parameter(name: str) -> str:
    """The name of the parameter that a tensor is, or is a state of the optimiser of."""
    part, _, rest = name.partition(".")
    return rest if part == MODEL else rest.rpartition(".")[0]


def _copied(values: Any) -> Any:
    """Dictionaries copied, so that tensors can be taken out of them; scalar tensors on the CPU."""
    if isinstance(values, Mapping):
        return {key: _copied(value) for key, value in values.items()}
    return values.cpu() if isinstance(values, Tensor) and not values.dim() else values


def free_folder(beside: Path, updates: int) -> Path:
    """A folder for the tensors of a checkpoint of `updates` updates, which is not there yet."""
    names = [f"shards_{updates}"] + [f"shards_{updates}_{number}" for number in range(1, 10_000)]
    taken = {path.name.removesuffix(PARTIAL) for path in beside.glob("shards_*")}
    return beside / next(name for name in names if name not in taken)


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Write the folder, all ranks together where torch.distributed has any; returns size and SHA-256 of its files.

    It gets its name when all of it is on the disk. Raises OSError, on all ranks, where a rank could not write.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    rank = distributed.get_rank() if _several() else 0
    try:
        with _held(partial) if rank == 0 else nullcontext():
            _save(partial, tensors)
            found = _on_all_ranks(lambda: _own_files(partial, rank))
            _on_all_ranks(lambda: _give_name(partial, folder) if rank == 0 else {})
    except OSError:
        if rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return found


@contextmanager
def _held(partial: Path) -> Iterator[None]:
    """The folder, which a run that starts meanwhile leaves alone."""
    with ExitStack() as stack:
        with suppress(OSError):  # which writing will tell on all ranks
            partial.mkdir(exist_ok=True)
            stack.enter_context(holding(partial))
        yield


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _save(partial: Path, tensors: Mapping[str, Tensor]) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process only
            checkpoint.save(dict(tensors), storage_writer=_writer(partial), no_dist=not _several())
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        of_disk = next((cause for cause in causes if isinstance(cause, OSError)), None)
        if of_disk is None:
            raise
        raise OSError(of_disk.errno, of_disk.strerror) from error


def _writer(partial: Path) -> Any:
    from torch.distributed.checkpoint import HuggingFaceStorageWriter

    class SeveralFiles(HuggingFaceStorageWriter):
        """What torch gave this rank to write, in files that are no larger than need be."""

        def write_data(self, plan: Any, planner: Any) -> Any:
            data = {**plan.storage_data, "fqn_to_index_mapping": _numbers_of_files(plan.items)}
            return super().write_data(replace(plan, storage_data=data), planner)

    return SeveralFiles(str(partial), save_distributed=True)


def _numbers_of_files(items: Sequence[Any]) -> dict[str, int]:
    numbers, number, size = {}, 1, 0
    for item in items:
        described = item.tensor_data
        bytes_ = math.prod(described.chunk.sizes) * described.properties.dtype.itemsize
        if size and size + bytes_ > BYTES_OF_A_FILE:
            number, size = number + 1, 0
        numbers[item.index.fqn] = number
        size += bytes_
    return numbers


def _own_files(partial: Path, rank: int) -> dict[str, dict[str, Any]]:
    files = sorted(partial.glob(f"shard-{rank + 1:05}-*.safetensors"))
    for file in files:
        sync(file)
    return {file.name: fingerprint(file) for file in files}


def _give_name(partial: Path, folder: Path) -> dict[str, Any]:
    sync(partial)
    partial.rename(folder)
    sync(folder.parent)
    return {}


def _on_all_ranks(step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What all ranks' steps return, together. OSError on all of them where one fails with it."""
    mine: dict[str, Any] | OSError
    try:
        mine = step()
    except OSError as error:
        mine = OSError(error.errno, error.strerror)
    each: list[Any] = [mine]
    if _several():
        each = [None] * distributed.get_world_size()
        distributed.all_gather_object(each, mine)
    for one in each:
        if isinstance(one, OSError):
            raise one
    return {name: value for one in each for name, value in one.items()}


def remove_unnamed(run_folder: Path, name_of_folder: Callable[[Path], str | None]) -> list[Path]:
    """Remove the folders of tensors that no checkpoint next to them names any more, and return them.

    `name_of_folder`: of a checkpoint, None for one without. While a checkpoint cannot be read, nothing is removed.
    """
    found = [path for path in sorted(run_folder.glob("shards_*")) if FOLDER.fullmatch(path.name)]
    try:
        named = {name_of_folder(path) for path in run_folder.glob("*.pt")} if found else set()
    except UserError:
        return []
    unnamed = [path for path in found if path.name not in named]
    for path in unnamed:
        _remove_tensors(path)
    return unnamed


def _remove_tensors(folder: Path) -> None:
    """Remove a folder of tensors; what others have put there stays, and what is linked."""
    if folder.is_symlink():
        return
    with suppress(OSError):
        for file in folder.iterdir():
            if FILE.fullmatch(file.name):
                file.unlink()
        folder.rmdir()


# --- reading ---


def fill(state: Mapping[str, Any], path: Path, parts: Sequence[str] = PARTS, mine: Mine = all_of) -> None:
    """Read the tensors of these parts of a checkpoint from the folder next to `path`; of one that is one file, nothing.

    Each rank reads what it needs, alone: of experts its own. Raises UserError for a damaged folder.
    """
    shards = Shards.of(state, path)
    if shards is None:
        return
    places = list(tensors_of(state, shards.parameters, parts))
    _check_room(places, path, shards)
    found: dict[str, Tensor] = {}
    targets: dict[str, Tensor] = {}
    room = sum(one["bytes"] for one in shards.files.values())
    for name, values, key in places:
        kept, shape = shards.tied.get(name, name), values[key].shape
        if kept in found:
            continue
        room -= values[key].nbytes
        if room < 0:
            raise UserError(f"{path}: its tensors are larger than the files of {shards.folder}; {REMEDY}")
        experts = list(mine(_parameter(kept), shape[0])) if EXPERTS.search(kept) else None
        if experts is None:
            found[kept] = targets[kept] = torch.empty(shape, dtype=values[key].dtype)
        else:
            found[kept] = torch.empty((len(experts), *shape[1:]), dtype=values[key].dtype)
            targets.update(zip(_apart(kept, experts), found[kept], strict=True))
    _load(targets, path, shards)
    for name, values, key in places:
        values[key] = found[shards.tied.get(name, name)]


def _check_room(places: Sequence[Any], path: Path, shards: Shards) -> None:
    """UserError for shapes that ask for more than the files hold: they would be allocated before anything is read."""
    sizes = {}
    for name, values, key in places:
        sizes[shards.tied.get(name, name)] = math.prod(values[key].shape) * values[key].dtype.itemsize
    files = [file for file in files_of(path, shards) if file.is_file()]
    if sum(sizes.values()) > sum(file.stat().st_size for file in files):
        raise UserError(f"{path}: it describes larger tensors than are in {path.parent / shards.folder}; {REMEDY}")


def _load(targets: dict[str, Tensor], path: Path, shards: Shards) -> None:
    from torch.distributed import checkpoint

    reader = checkpoint.HuggingFaceStorageReader(str(path.parent / shards.folder))
    reader.fs = _only(files_of(path, shards))
    try:
        found = reader.read_metadata()  # which torch would do later, and print the trace of an error
        reader.read_metadata = lambda: found  # type: ignore[method-assign]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no other process is asked
            checkpoint.load(targets, storage_reader=reader, no_dist=True)
    except Exception as error:  # of safetensors, of the file system, or of torch's plan for other tensors than these
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{path.parent / shards.folder}: the tensors of {path.name} cannot be read from it "
            f"({reason[-1][:160] if reason else type(error).__name__}); {REMEDY}"
        ) from error


def _only(files: Sequence[Path]) -> Any:
    """A file system of the named files alone: whatever else lies in the folder is not looked at."""
    from torch.distributed.checkpoint.filesystem import FileSystem

    class NamedFiles(FileSystem):
        def ls(self, path: Any) -> list[str]:
            return [str(file) for file in files]

    return NamedFiles()


def files_of(path: Path, shards: Shards) -> list[Path]:
    """The files of the folder."""
    return [path.parent / shards.folder / name for name in shards.files]


def check_folder(path: Path, shards: Shards, progress: Callable[[int], Any] = lambda _: None) -> None:
    """Read all of the folder once. UserError for a file that is missing, cut or not what was written."""
    for file in files_of(path, shards):
        if not file.is_file():
            raise UserError(f"{file} is missing, and with it tensors of {path.name}; {REMEDY}")
        expected = shards.files[file.name]
        if file.stat().st_size != expected["bytes"]:
            raise UserError(
                f"{file} has {file.stat().st_size:,} bytes, and {expected['bytes']:,} were written; {REMEDY}"
            )
        if fingerprint(file, progress)["sha256"] != expected["sha256"]:
            raise UserError(f"{file} is not what was written (its SHA-256 differs); {REMEDY}")
