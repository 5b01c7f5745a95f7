"""The whole way on the user's own text: the folder, the same bytes twice, going on after an interruption, errors."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep import pipeline
from data_prep.prepare import add_arguments, run
from smoe_mt.errors import UserError
from smoe_mt.folder_lock import LOCK, FolderLock
from smoe_mt.tasks.data_folder import DataFolder
from tests.data_prep.toy import FIRST, toy_lines, write_tsv


def prepare(corpus: str, out: Path, *options: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args(["--corpus", corpus, "--out", str(out), "--workers", "1", "--vocab-size", "300", *options]))
    return dict(json.loads((out / "corpus.json").read_text()))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_folder_is_what_the_others_read(toy: Path, tmp_path: Path) -> None:
    corpus = prepare(f"tsv:{toy}", tmp_path / "data")
    out = tmp_path / "data"
    assert corpus["pairs"] == ["xaa-en", "xbb-en"] and corpus["languages"] == ["en", "xaa", "xbb"]
    assert (out / "directions.txt").read_text().split() == ["xaa-en", "en-xaa", "xbb-en", "en-xbb"]
    for split in ("train", "valid", "test"):
        for pair, language in (("xaa-en", "xaa"), ("xbb-en", "en")):
            assert (out / f"{split}.{pair}.{language}.bin").is_file()
    references = (out / "text" / "test.xaa-en.xaa").read_text().splitlines()
    assert len(references) == corpus["splits"]["test"]["xaa-en"] == 12  # type: ignore[index]
    assert not (out / ".work").exists()


def test_one_preparation_at_a_time_writes_to_a_folder(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    with (
        FolderLock.take(out, "a preparation", "choose another --out"),
        pytest.raises(UserError, match=f"in use by a preparation .process {os.getpid()} .*choose another --out"),
    ):
        prepare(f"tsv:{toy}", out)
    prepare(f"tsv:{toy}", out)
    assert not (out / LOCK).exists()
    with FolderLock.take(out, "a training", "wait"):
        prepare(f"tsv:{toy}", out)  # a folder that is finished is only read


def test_checksums_are_those_of_the_files(toy: Path, tmp_path: Path) -> None:
    corpus = prepare(f"tsv:{toy}", tmp_path / "data")
    found = contents(tmp_path / "data")
    del found["corpus.json"]
    assert corpus["checksums"] == {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


def test_twice_gives_the_same_bytes_with_any_number_of_workers(toy: Path, tmp_path: Path) -> None:
    prepare(f"tsv:{toy}", tmp_path / "one")
    prepare(f"tsv:{toy}", tmp_path / "two", "--workers", "2")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_again_is_recognised_as_complete(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(f"tsv:{toy}", tmp_path / "data")
    before = (tmp_path / "data" / "spm.model").stat().st_mtime_ns
    prepare(f"tsv:{toy}", tmp_path / "data")
    assert "already complete" in capsys.readouterr().err
    assert (tmp_path / "data" / "spm.model").stat().st_mtime_ns == before


@pytest.mark.parametrize("stage", ["_clean", "_split", "_spm", "_binarise_file"])
def test_interrupted_it_goes_on(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, stage, interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(f"tsv:{toy}", tmp_path / "data")
    assert not (tmp_path / "data" / "corpus.json").exists()
    capsys.readouterr()
    prepare(f"tsv:{toy}", tmp_path / "data")
    assert "extract: already done" in capsys.readouterr().err
    prepare(f"tsv:{toy}", tmp_path / "straight")
    assert contents(tmp_path / "data") == contents(tmp_path / "straight")


def test_an_interrupted_redo_does_not_pass_for_whole(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(f"tsv:{toy}", tmp_path / "data")

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_spm", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(f"tsv:{toy}", tmp_path / "data", "--test-size", "4")
    assert not (tmp_path / "data" / "corpus.json").exists()


def test_damaged_files_are_made_again(toy: Path, tmp_path: Path) -> None:
    prepare(f"tsv:{toy}", tmp_path / "data")
    whole = contents(tmp_path / "data")
    (tmp_path / "data" / "train.xaa-en.en.bin").write_bytes(b"short")
    prepare(f"tsv:{toy}", tmp_path / "data")
    assert contents(tmp_path / "data") == whole


def test_other_options_redo_and_leave_nothing_old_behind(toy: Path, tmp_path: Path) -> None:
    prepare(f"tsv:{toy}", tmp_path / "data")
    (tmp_path / "data" / "notes.txt").write_text("mine")
    (toy / "en-xbb.tsv").unlink()
    prepare(f"tsv:{toy}", tmp_path / "data", "--test-size", "4")
    prepare(f"tsv:{toy}", tmp_path / "fresh", "--test-size", "4")
    found = contents(tmp_path / "data")
    assert found.pop("notes.txt") == b"mine"
    assert found == contents(tmp_path / "fresh")


def test_both_orders_of_a_pair_are_merged(tmp_path: Path) -> None:
    write_tsv(tmp_path / "in" / "de-fr.tsv", toy_lines(40))
    write_tsv(tmp_path / "in" / "fr-de.tsv", [(other, one) for one, other in toy_lines(40, seed=1)])
    corpus = prepare(f"tsv:{tmp_path / 'in'}", tmp_path / "data")
    assert corpus["pairs"] == ["de-fr"]
    assert corpus["counts"]["de-fr"]["read"] == 80  # type: ignore[index]
    assert set((tmp_path / "data" / "text" / "test.de-fr.de").read_text().split()) <= set(FIRST)


def test_given_test_files_are_used_as_they_are(toy: Path, tmp_path: Path) -> None:
    write_tsv(toy / "en-xaa.test.tsv", [("Gold milk", "rinu  rinu"), ("sea", "sea")])
    prepare(f"tsv:{toy}", tmp_path / "data")
    text = tmp_path / "data" / "text"
    assert (text / "test.xaa-en.xaa").read_text() == "rinu rinu\nsea\n"
    assert (text / "test.xaa-en.en").read_text() == "Gold milk\nsea\n"


def test_max_pairs_limits_training_only(toy: Path, tmp_path: Path) -> None:
    corpus = prepare(f"tsv:{toy}", tmp_path / "data", "--max-pairs", "50")
    assert corpus["splits"]["train"] == {"xaa-en": 50, "xbb-en": 50}  # type: ignore[index]
    assert corpus["splits"]["test"] == {"xaa-en": 12, "xbb-en": 12}  # type: ignore[index]


@pytest.fixture
def three(toy: Path) -> Path:
    """A folder with all three pairs of two languages and English."""
    write_tsv(toy / "xaa-xbb.tsv", [(one, one[::-1]) for one, _ in toy_lines(150)])
    return toy


def test_zero_shot_pairs_have_no_training_text(three: Path, tmp_path: Path) -> None:
    corpus = prepare(f"tsv:{three}", tmp_path / "data", "--zero-shot", "xbb-xaa")
    splits = {name: sorted(sizes) for name, sizes in corpus["splits"].items()}  # type: ignore[attr-defined]
    assert splits == {
        "train": ["xaa-en", "xbb-en"],
        "valid": ["xaa-en", "xaa-xbb", "xbb-en"],
        "test": ["xaa-en", "xaa-xbb", "xbb-en"],
    }
    assert corpus["zero_shot"] == ["xaa-xbb"]
    held = {(tmp_path / "data" / "text" / f"test.xaa-xbb.{name}").read_text() for name in ("xaa", "xbb")}
    assert len(held) == 2 and not list((tmp_path / "data").glob("train.xaa-xbb.*"))
    folder = DataFolder.open(tmp_path / "data")
    assert "xaa-xbb" in folder.directions and not folder.has("train", "xaa-xbb") and folder.has("test", "xbb-xaa")


def test_a_zero_shot_pair_may_have_a_test_file_alone(toy: Path, tmp_path: Path) -> None:
    write_tsv(toy / "xaa-xbb.test.tsv", [("katu", "utak")])
    corpus = prepare(f"tsv:{toy}", tmp_path / "data", "--zero-shot", "xaa-xbb")
    assert corpus["splits"]["test"]["xaa-xbb"] == 1  # type: ignore[index]
    assert "xaa-xbb" not in corpus["splits"]["valid"]  # type: ignore[index]


@pytest.mark.parametrize("directions, pairs", [("english", ["xaa-en", "xbb-en"]), ("xbb-xaa", ["xaa-xbb"])])
def test_directions_choose_among_the_files(three: Path, tmp_path: Path, directions: str, pairs: list[str]) -> None:
    assert prepare(f"tsv:{three}", tmp_path / "data", "--directions", directions)["pairs"] == pairs


def test_a_pair_below_the_minimum_is_an_error_with_its_count(toy: Path, tmp_path: Path) -> None:
    write_tsv(toy / "xcc-en.tsv", toy_lines(20, seed=5))
    with pytest.raises(UserError, match="below the minimum of 100 clean pairs of sentences: xcc-en 20;"):
        prepare(f"tsv:{toy}", tmp_path / "data", "--min-pairs", "100")
    assert prepare(f"tsv:{toy}", tmp_path / "data", "--min-pairs", "20")["left_out"] == {}


def test_own_text_of_a_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tsv(tmp_path / "in" / "nso-en.tsv", toy_lines(150))
    options = ("--benchmark", "m4")
    with pytest.raises(UserError, match="below the minimum of 4,000 clean pairs of sentences: nso-en 150"):
        prepare(f"tsv:{tmp_path / 'in'}", tmp_path / "data", *options)
    assert "m4: no files of msa, tgl, cat" in capsys.readouterr().err
    prepare(f"tsv:{tmp_path / 'in'}", tmp_path / "data", *options, "--min-pairs", "100")
    write_tsv(tmp_path / "in" / "de-en.tsv", toy_lines(150))
    with pytest.raises(UserError, match="m4 has no language 'de'"):
        prepare(f"tsv:{tmp_path / 'in'}", tmp_path / "other", *options)


def test_a_small_pair_without_english_does_not_stop_a_benchmark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = toy_lines(150)
    write_tsv(tmp_path / "in" / "nso-en.tsv", lines)
    write_tsv(tmp_path / "in" / "nso-en.test.tsv", [("katu meri", "street sea")])
    write_tsv(tmp_path / "in" / "msa-en.tsv", [(one[::-1], other) for one, other in lines])
    write_tsv(tmp_path / "in" / "msa-nso.tsv", [("utak irem", "katu meri")])
    corpus = prepare(f"tsv:{tmp_path / 'in'}", tmp_path / "data", "--benchmark", "m4", "--min-pairs", "100")
    assert corpus["pairs"] == ["msa-en", "nso-en"]
    assert "msa-nso: none of 1 pairs is left to train on (strings held out: 1)" in capsys.readouterr().err


def test_the_disk_is_looked_at_before(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="the disk has 0.0 GB free"):
        prepare(f"tsv:{toy}", tmp_path / "data")


def test_filters_are_counted(toy: Path, tmp_path: Path) -> None:
    again = [("Katu meri lolo 1!", "Street sea tree 1!"), ("katu meri lolo 2", "street sea tree 2")]
    write_tsv(toy / "xaa-en.tsv", [*toy_lines(150), *again])
    plain = prepare(f"tsv:{toy}", tmp_path / "plain")
    strict = prepare(f"tsv:{toy}", tmp_path / "strict", "--drop-near-duplicates")
    counts = [found["counts"]["xaa-en"]["near duplicates"] for found in (plain, strict)]  # type: ignore[index]
    assert counts == [0, 1]
    card = (tmp_path / "strict" / "DATA_CARD.md").read_text()
    assert "| near duplicates |" in card and "the user's own" in card and "4 directions" in card


def test_a_file_that_may_not_be_read(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "xaa-en.tsv")

    monkeypatch.setattr(pipeline, "_extract", refuse)
    with pytest.raises(UserError, match="xaa-en.tsv: Permission denied"):
        prepare(f"tsv:{toy}", tmp_path / "data")


def test_a_full_disk_is_one_line_and_nothing_counts_as_whole(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "spm.model")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train_spm", full)
        with pytest.raises(UserError, match="no space left.*spm.model"):
            prepare(f"tsv:{toy}", tmp_path / "data")
    assert not (tmp_path / "data" / "corpus.json").exists()
    prepare(f"tsv:{toy}", tmp_path / "data")
    assert (tmp_path / "data" / "corpus.json").exists()


LINE = b"katu meri lolo\tstreet sea tree\n"


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "no .tsv file"),
        ({"de-en.tsv": b""}, "de-en.tsv is empty"),
        ({"de-en.tsv": b"\n\n"}, "de-en.tsv is empty"),
        ({"de-en.tsv": LINE + b"only one\n"}, "line 2: 1 column, not two"),
        ({"de-en.tsv": LINE + b"a\tb\tc\n"}, "line 2: 3 columns, not two"),
        ({"de-en.tsv": LINE * 2 + b"a\xff\tb\n"}, "line 3: not valid UTF-8"),
        ({"german.tsv": LINE}, "german.tsv: not a name of the form SRC-TGT.tsv"),
        ({"de-de.tsv": LINE}, "the same language twice"),
        ({"de-en.test.tsv": LINE}, "no training text"),
        ({"de-en.tsv": LINE, "de-en.valid.tsv": b"a\t\n"}, "line 1: an empty sentence in a valid file"),
        ({"de-en.tsv": b"1\t2\n"}, "de-en: none of 1 pairs is left.*no letters: 1"),
    ],
)
def test_bad_input(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        prepare(f"tsv:{folder}", tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data" / "corpus.json").exists()


@pytest.mark.parametrize(
    "corpus, options, message",
    [
        ("tsv:", (), "needs a folder"),
        ("tsv:/no/such/folder", (), "no such folder"),
        ("opus", (), "unknown corpus 'opus'"),
        ("l10n", (), "needs a benchmark"),
        ("l10n", ("--benchmark", "m99"), "unknown benchmark 'm99'"),
        ("l10n:x", ("--benchmark", "m4"), "takes no folder"),
        ("l10n", ("--benchmark", "m4", "--directions", "nso-deu"), "no language 'deu'"),
        ("l10n", ("--benchmark", "m4", "--directions", "nso"), "--directions nso: not english"),
        ("l10n", ("--benchmark", "m4", "--dry-run"), "belongs to --corpus public"),
    ],
)
def test_bad_arguments(tmp_path: Path, corpus: str, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(corpus, tmp_path / "data", *options)


def test_a_folder_with_other_things_is_not_touched(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "full"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        prepare(f"tsv:{toy}", out)
    assert contents(out) == {"thesis.txt": b"mine"}


def test_out_that_is_a_file(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        prepare(f"tsv:{toy}", tmp_path / "file")


@pytest.mark.parametrize("name", ["../victim/notes.txt", "/victim/notes.txt", "text/../../victim/notes.txt", "", "a\0"])
@pytest.mark.parametrize("file", ["corpus.json", ".work/ours.json"])
def test_names_in_a_data_folder_remove_nothing_elsewhere(toy: Path, tmp_path: Path, name: str, file: str) -> None:
    out, victim = tmp_path / "data", tmp_path / "victim" / "notes.txt"
    prepare(f"tsv:{toy}", out)
    victim.parent.mkdir()
    victim.write_text("precious")
    digest = hashlib.sha256(b"precious").hexdigest()
    if file == "corpus.json":
        card = json.loads((out / file).read_text())
        (out / file).write_text(json.dumps(card | {"checksums": {name: digest}}))
    else:
        (out / ".work").mkdir()
        (out / file).write_text(json.dumps({name: [digest]}))
    with pytest.raises(UserError, match="cannot be the name of a file"):
        prepare(f"tsv:{toy}", out, "--seed", "3")
    assert victim.read_text() == "precious"


def test_a_file_of_ours_that_was_changed_is_not_removed(three: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare(f"tsv:{three}", out)
    gone, changed = (out / "text" / f"test.xaa-en.{language}" for language in ("xaa", "en"))
    changed.write_text("corrected by hand\n")
    prepare(f"tsv:{three}", out, "--directions", "xbb-en")
    assert changed.read_text() == "corrected by hand\n" and not gone.exists()


def test_a_work_folder_that_is_a_link_is_refused(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "victim" / "extract").mkdir(parents=True)
    (tmp_path / "victim" / "extract" / "notes.txt").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".work").symlink_to("../victim")
    with pytest.raises(UserError, match="is a link"):
        prepare(f"tsv:{toy}", tmp_path / "data")
    assert (tmp_path / "victim" / "extract" / "notes.txt").exists()


@pytest.mark.parametrize("step", range(0, 40, 3))
def test_killed_at_any_step_it_goes_on_and_leaves_nothing(toy: Path, tmp_path: Path, step: int) -> None:
    prepare(f"tsv:{toy}", tmp_path / "alone")
    process = os.fork()
    if not process:
        left = iter(range(step))
        replace = os.replace

        def killing(source: Path, target: Path) -> None:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = killing  # type: ignore[assignment]
        prepare(f"tsv:{toy}", tmp_path / "data")
        os._exit(0)
    os.waitpid(process, 0)
    prepare(f"tsv:{toy}", tmp_path / "data")
    assert contents(tmp_path / "data") == contents(tmp_path / "alone")
