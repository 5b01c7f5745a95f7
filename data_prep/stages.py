"""Finished stages are remembered by the fingerprint of their input and options, and not repeated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.files import read_json, say
from smoe_mt.checksums import sha256_value
from smoe_mt.files import path_inside, write_json
from smoe_mt.folders import scratch_directory
from smoe_mt.temporary_names import sync

DONE = "done.json"


def run_stage(work: Path, name: str, inputs: Any, make: Callable[[Path], Any]) -> tuple[Path, Any, str]:
    """The output folder of a stage, what ``make`` returned (as JSON), and the stage's fingerprint.

    ``make(folder)`` fills an empty folder, which gets its final name only when all is written. If the folder is there
    already and was made from the same ``inputs``, nothing runs.
    """
    folder, mark = path_inside(work, name, work), sha256_value([name, inputs])
    done = read_json(folder / DONE)
    if isinstance(done, dict) and done.get("fingerprint") == mark and "result" in done:
        say(f"{name}: already done")
        return folder, done["result"], mark
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_directory(folder.parent, folder.name) as part:
        result = make(part)
        write_json(part / DONE, {"fingerprint": mark, "result": result})
        for path in part.rglob("*"):
            sync(path)
        os.replace(part, folder)
    return folder, read_json(folder / DONE)["result"], mark
