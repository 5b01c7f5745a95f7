"""Packages by name from ordinary clients (apt-get, npm, pip), kept in a cache; nothing is installed.

Versions move: the newest one is taken, noted and never pinned. What is in the cache is used as it is. A package that
cannot be fetched is left out, with one line that says why.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from tqdm import tqdm

from data_prep.files import DISK_FULL, FORBIDDEN, say
from smoe_mt.checksums import sha256_file
from smoe_mt.errors import UserError
from smoe_mt.folders import scratch_directory

CLIENTS = {"deb": "apt-get", "npm": "npm", "pip": "pip"}
TIME_LIMIT_S = 900
FAILURES_IN_A_ROW = 3
LONGEST_REASON = 160
OF_THE_MACHINE = {*DISK_FULL, *FORBIDDEN, errno.EMFILE, errno.ENFILE, errno.EIO}
UNKNOWN = re.compile(
    r"Unable to locate package|Can't find a source|No candidate|E404|404 Not Found|No matching distribution"
)


@dataclass(frozen=True)
class Package:
    """A package file in the cache."""

    kind: str
    name: str
    version: str
    path: Path
    sha256: str


def fetch(wanted: Iterable[tuple[str, str]], cache: Path, refresh: bool = False) -> tuple[Package, ...]:
    """Those of the wanted (kind, name) packages that the cache or the clients can bring, in the order asked for."""
    packages: list[Package] = []
    client = _Clients(cache)
    with tqdm(list(wanted), desc="fetch", unit="package") as bar:
        for kind, name in bar:
            bar.set_postfix_str(name)
            path = None if refresh else cached(cache, kind, name)
            if path is None:
                path = client.download(kind, name, bar.set_postfix_str) or cached(cache, kind, name)
            if path is not None:
                packages.append(Package(kind, name, version_of(path, kind, name), path, sha256_file(path)))
    return tuple(packages)


def cached(cache: Path, kind: str, name: str) -> Path | None:
    """The newest file of a package in the cache."""
    pattern = {"deb": f"{name}_*.deb", "npm": f"{name}-[0-9]*.tgz", "pip": f"{name}-[0-9]*"}[kind]
    found = sorted((cache / kind).glob(pattern), key=lambda path: (path.stat().st_mtime, path.name))
    return found[-1] if found else None


def version_of(path: Path, kind: str, name: str) -> str:
    """The version in a package file's name."""
    if kind == "deb":
        return unquote(path.name).split("_")[1]
    rest = path.name[len(name) + 1 :]
    return rest.removesuffix(".tgz") if kind == "npm" else rest.split("-")[0].removesuffix(".tar.gz")


class _Clients:
    """Downloads one package at a time and remembers what is missing on this machine."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.missing: set[str] = set()
        self.failures: Counter[str] = Counter()
        self.updated = False
        self.listed = True  # whether apt-get's lists can be trusted when they lack a package

    def download(self, kind: str, name: str, progress: Callable[[str], None]) -> Path | None:
        """The new file in the cache, or ``None`` after saying why there is none."""
        client = CLIENTS[kind]
        if client in self.missing:
            return None
        if shutil.which(client) is None:
            self.missing.add(client)
            say(f"fetch: no '{client}' on this machine; its packages are left out (first of them: {name})")
            return None
        folder = self.cache / kind
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_directory(self.cache, "download") as temporary:
            error = self._try(kind, name, temporary, progress)
            if error is not None and kind == "deb" and not self.updated:
                self._update(progress)
                error = self._try(kind, name, temporary, progress)
            files = [path for path in temporary.iterdir() if path.is_file() and path.suffix != ".part"]
            if error is not None or len(files) != 1:
                say(f"fetch: {client} could not fetch {name}, which is left out ({error or 'it left no file'})")
                if not (self.listed and UNKNOWN.search(error or "")):
                    self._failed(client)
                return None
            self.failures[client] = 0
            os.replace(files[0], folder / files[0].name)
            return folder / files[0].name

    def _failed(self, client: str) -> None:
        self.failures[client] += 1
        if self.failures[client] == FAILURES_IN_A_ROW:
            self.missing.add(client)
            say(
                f"fetch: {client} failed {FAILURES_IN_A_ROW} times in a row (no network?); "
                "its other packages are left out"
            )

    def _try(self, kind: str, name: str, folder: Path, progress: Callable[[str], None]) -> str | None:
        command = {
            "deb": ["apt-get", *self._apt_options(), "download", name],
            "npm": ["npm", "pack", "--silent", name],
            "pip": ["pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet", name],
        }[kind]
        return _run(command, folder, lambda: progress(f"{name} {_megabytes(folder):.1f} MB"))

    def _update(self, progress: Callable[[str], None]) -> None:
        self.updated = True
        say("fetch: apt-get does not know a package yet; running 'apt-get update' once")
        (self._lists() / "partial").mkdir(parents=True, exist_ok=True)
        error = _run(["apt-get", *self._apt_options(), "update"], self.cache, lambda: progress("apt-get update"))
        if error is not None:
            self.listed = False
            say(f"fetch: 'apt-get update' failed ({error})")

    def _lists(self) -> Path:
        return self.cache / "apt" / "lists"

    def _apt_options(self) -> Sequence[str]:
        """Without root, package lists of our own (once they are there)."""
        if os.geteuid() == 0 or not self.updated:
            return ()
        archives = self.cache / "apt" / "archives"
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        return ("-o", f"Dir::State::Lists={self._lists()}", "-o", f"Dir::Cache={self.cache / 'apt'}")


def _run(command: Sequence[str], folder: Path, tick: Callable[[], None]) -> str | None:
    """Run a client in a folder; ``None`` if it succeeded, else the last line of what it said."""
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        except OSError as error:
            return str(error)
        try:
            code = _wait(process, tick)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        lines = [line.strip() for line in output.read().decode("utf-8", "replace").splitlines() if line.strip()]
    if any("No space left on device" in line for line in lines):
        raise UserError(
            f"no space left on the disk while downloading into {folder.parent}: free some space or give another --cache"
        )
    if code == 0:
        return None
    telling = [line for line in lines if line.startswith(("E:", "npm ERR", "npm error", "ERROR"))] or lines
    return telling[0] if telling else f"exit status {code}"


def _wait(process: subprocess.Popen[bytes], tick: Callable[[], None]) -> int | None:
    end = time.monotonic() + TIME_LIMIT_S
    while time.monotonic() < end:
        try:
            return process.wait(timeout=0.25)
        except subprocess.TimeoutExpired:
            tick()
    return None


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def unpack(package: Package, folder: Path, wanted: Callable[[str], bool]) -> str | None:
    """Write those regular files of a package whose path (without leading "./") is wanted under ``folder``.

    ``None`` if that went well, else what is wrong with the package or with this machine. What is wrong with this machine alone
    (a full disk, too many open files) is an OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if package.kind == "deb":
            return _unpack_deb(package.path, folder, wanted)
        if zipfile.is_zipfile(package.path):
            with zipfile.ZipFile(package.path) as wheel:
                wheel.extractall(folder, [name for name in wheel.namelist() if wanted(name)])
        else:
            with tarfile.open(package.path, mode="r|*") as archive:
                _extract(archive, folder, wanted)
    except Exception as error:  # noqa: BLE001 (see fault_of_package)
        return fault_of_package(error)
    return None


def fault_of_package(error: Exception) -> str:
    """What an error in reading a package says of it: one that is damaged by design raises nearly anything in the readers of
    archives and catalogues. Raises the error again where this machine is at fault, or the user.
    """
    if isinstance(error, (UserError, MemoryError)) or (isinstance(error, OSError) and error.errno in OF_THE_MACHINE):
        raise error
    lines = f"{type(error).__name__}: {error}".splitlines()
    return lines[0][:LONGEST_REASON].rstrip(": ")


def _unpack_deb(path: Path, folder: Path, wanted: Callable[[str], bool]) -> str | None:
    if shutil.which("dpkg-deb") is None:
        return "no 'dpkg-deb' on this machine"
    command = ["dpkg-deb", "--fsys-tarfile", str(path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        _extract(archive, folder, wanted)
    return None


def _extract(archive: tarfile.TarFile, folder: Path, wanted: Callable[[str], bool]) -> None:
    for member in archive:
        name = member.name.removeprefix("./").lstrip("/")
        if not member.isfile() or ".." in name.split("/") or not wanted(name):
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        content = archive.extractfile(member)
        assert content is not None
        with content, open(target, "wb") as out:
            shutil.copyfileobj(content, out)
