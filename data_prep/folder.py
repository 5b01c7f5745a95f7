"""The output folder: is it ours, is it complete, and how finished files get there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from data_prep.files import read_json, write_json
from smoe_mt.checksums import is_intact, sha256_file, sha256_value
from smoe_mt.errors import UserError

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
        if out.is_dir() and not (out / WORK).is_dir() and any(out.iterdir()):
            raise UserError(f"{out} holds other files: give an empty or a new folder with --out")
        return False
    if corpus.get("request") != sha256_value(request) or not is_intact(corpus):
        return False
    files = corpus.get("checksums", {})
    return all((out / name).is_file() and sha256_file(out / name) == digest for name, digest in files.items())


def start(out: Path) -> Path:
    """The work folder, after taking away the mark of completeness."""
    work = out / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"{out} cannot be made ({error.strerror}): give another folder with --out") from error
    previous = read_json(out / CORPUS)
    if isinstance(previous, dict):
        write_json(work / OURS, sorted({*_ours(work), *previous.get("checksums", ())}))
    (out / CORPUS).unlink(missing_ok=True)
    return work


def _ours(work: Path) -> list[str]:
    """Names of the files in the data folder that this or earlier runs have put there."""
    return list(read_json(work / OURS) or ())


def publish(out: Path, folders: list[Path], skip: set[str]) -> dict[str, str]:
    """Copy the stages' files into ``out``, each under a temporary name first; earlier runs' other files go. Returns
    checksums.
    """
    sources = {
        source.relative_to(folder).as_posix(): source
        for folder in folders
        for source in sorted(folder.rglob("*"))
        if source.is_file() and source.name not in skip
    }
    earlier = _ours(out / WORK)
    write_json(out / WORK / OURS, sorted({*earlier, *sources}))
    for name in set(earlier) - set(sources):
        (out / name).unlink(missing_ok=True)
    checksums: dict[str, str] = {}
    for name, source in sorted(sources.items()):
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(target.name + ".tmp")
        temporary.unlink(missing_ok=True)
        _link_or_copy(source, temporary)
        os.replace(temporary, target)
        checksums[name] = sha256_file(target)
    return checksums


def _link_or_copy(source: Path, target: Path) -> None:
    """The stages' files are never written again, so a second name does, where the file system has them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
