"""The output folder: is it ours, is it complete, and how finished files get there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from data_prep.files import fingerprint, read_json, sha256_file
from smoe_mt.errors import UserError

CORPUS = "corpus.json"
WORK = ".work"
FORMAT = 1


def is_complete(out: Path, request: Any) -> bool:
    """Whether ``out`` holds, undamaged, what this request makes; UserError if it holds something that is not a data folder."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give another folder with --out")
    corpus = read_json(out / CORPUS)
    if not isinstance(corpus, dict) or corpus.get("format") != FORMAT:
        if out.is_dir() and not (out / WORK).is_dir() and any(out.iterdir()):
            raise UserError(f"{out} holds other files: give an empty or a new folder with --out")
        return False
    if corpus.get("request") != fingerprint(request):
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
    (out / CORPUS).unlink(missing_ok=True)
    return work


def publish(out: Path, folders: list[Path], skip: set[str]) -> dict[str, str]:
    """Copy the stages' files into ``out``, each under a temporary name first; remove what earlier runs left. Returns checksums."""
    checksums: dict[str, str] = {}
    for folder in folders:
        for source in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in skip):
            name = source.relative_to(folder).as_posix()
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(target.name + ".tmp")
            shutil.copyfile(source, temporary)
            os.replace(temporary, target)
            checksums[name] = sha256_file(target)
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and not name.startswith(WORK + "/") and name not in checksums:
            path.unlink()
    return dict(sorted(checksums.items()))
