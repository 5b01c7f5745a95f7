"""The output folder: is it ours, is it complete, and how finished files get there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from data_prep.files import read_json
from smoe_mt.checksums import is_intact, sha256_file, sha256_value
from smoe_mt.errors import UserError
from smoe_mt.files import atomic_path, path_inside, write_json
from smoe_mt.folder_lock import LOCK
from smoe_mt.temporary_names import sweep

CORPUS = "corpus.json"
WORK = ".work"
OURS = "ours.json"
FORMAT = 1


def is_complete(out: Path, request: Any) -> bool:
    """Whether ``out`` holds, undamaged, what this request makes; UserError if it holds something that is not a data
    folder.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give another folder with --out")
    corpus = read_json(out / CORPUS)
    if not isinstance(corpus, dict) or corpus.get("format") != FORMAT:
        if out.is_dir() and not (out / WORK).is_dir() and any(path.name != LOCK for path in out.iterdir()):
            raise UserError(f"{out} holds other files: give an empty or a new folder with --out")
        return False
    if corpus.get("request") != sha256_value(request) or not is_intact(corpus):
        return False
    files = corpus.get("checksums")
    if not isinstance(files, dict):
        return False
    checked = {path_inside(out, name, out / CORPUS): digest for name, digest in files.items()}
    return all(path.is_file() and sha256_file(path) == digest for path, digest in checked.items())


def start(out: Path) -> Path:
    """The work folder, after taking away the mark of completeness. UserError where it cannot be made or is a link."""
    work = out / WORK
    if work.is_symlink():
        raise UserError(f"{work} is a link, and its files would be removed from another folder: remove it")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made ({error.strerror}): give another folder with --out") from error
    sweep(work)
    previous = read_json(out / CORPUS)
    if isinstance(previous, dict):
        _note(work, previous.get("checksums"), out / CORPUS)
    (out / CORPUS).unlink(missing_ok=True)
    return work


def finish(out: Path) -> None:
    """Remove the work folder, of which nothing is needed any more."""
    work = out / WORK
    if work.is_dir() and not work.is_symlink():
        shutil.rmtree(work)


def _ours(work: Path) -> dict[str, list[str]]:
    """Files in the data folder that this or earlier runs have put there or were about to: name -> its checksums in them."""
    found = read_json(work / OURS)
    if not isinstance(found, dict):
        return {}
    return {name: digests for name, digests in found.items() if isinstance(digests, list)}


def _note(work: Path, checksums: Any, where: Path) -> None:
    """Remember that files with these names and checksums are ours."""
    ours = _ours(work)
    for name, digest in checksums.items() if isinstance(checksums, dict) else ():
        path_inside(work.parent, name, where)
        ours[name] = sorted({*map(str, ours.get(name, ())), str(digest)})
    write_json(work / OURS, ours)


def publish(out: Path, folders: list[Path], skip: set[str]) -> dict[str, str]:
    """Copy the stages' files into ``out``, each whole or not at all; earlier runs' other files go, where they are as they
    were written. Returns checksums.
    """
    sources = {
        source.relative_to(folder).as_posix(): source
        for folder in folders
        for source in sorted(folder.rglob("*"))
        if source.is_file() and source.name not in skip
    }
    checksums = {name: sha256_file(source) for name, source in sorted(sources.items())}
    earlier = _ours(out / WORK)
    _note(out / WORK, checksums, out)
    for name, digests in earlier.items():
        path = path_inside(out, name, out / WORK / OURS)
        if name not in sources and path.is_file() and not path.is_symlink() and sha256_file(path) in digests:
            path.unlink()
    for name, source in sorted(sources.items()):
        target = path_inside(out, name, out)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            temporary.unlink()
            _link_or_copy(source, temporary)
    return checksums


def _link_or_copy(source: Path, target: Path) -> None:
    """The stages' files are never written again, so a second name does, where the file system has them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
