from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from smoe_mt.errors import UserError
from smoe_mt.tasks.data_folder import DataFolder


def edit_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps({**card, **changes}))


def test_what_lies_in_a_folder(toy_master: Path) -> None:
    folder = DataFolder.open(toy_master)
    assert folder.directions == ("aa-en", "en-aa", "bb-en", "en-bb")
    assert folder.languages == ("aa", "bb", "en")
    assert folder.splits() == ("train", "valid", "test")
    assert folder.pair_of("en-bb") == folder.pair_of("bb-en") == "bb-en"
    assert folder.prefix("train", "en-bb", "bb") == toy_master / "train.bb-en.bb"
    assert folder.spm_path.is_file()


def test_a_pair_need_not_have_every_split(toy_master: Path) -> None:
    folder = DataFolder.open(toy_master)
    assert folder.has("test", "en-aa") and not folder.has("test", "en-bb")
    assert (folder.count("test", "en-aa"), folder.count("test", "en-bb")) == (9, 0)


def test_references_are_the_raw_text_of_either_side(toy_master: Path) -> None:
    folder = DataFolder.open(toy_master)
    targets = folder.references("valid", "en-bb")
    sources = folder.references("valid", "en-bb", side="source")
    assert len(targets) == 12
    assert [line.split()[::-1] for line in targets] == [line.split() for line in sources]


def test_a_reference_may_hold_unusual_line_separators(toy: Path) -> None:
    path = toy / "text" / "valid.aa-en.en"
    lines = path.read_text().split("\n")
    path.write_text("\n".join(["one\u2028two\x0b three\r", *lines[1:]]), newline="")
    assert DataFolder.open(toy).references("valid", "aa-en")[0] == "one\u2028two\x0b three\r"


def test_the_dictionary_has_all_tags(toy_master: Path) -> None:
    dictionary = DataFolder.open(toy_master).dictionary()
    assert all(dictionary.index(f"<2{language}>") != dictionary.unk() for language in ("aa", "bb", "en"))


def test_a_moved_folder_still_opens(toy: Path, tmp_path: Path) -> None:
    shutil.move(toy, tmp_path / "elsewhere")
    folder = DataFolder.open(tmp_path / "elsewhere")
    assert len(folder.references("valid", "aa-en")) == 12


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such data folder"):
        DataFolder.open(tmp_path / "none")


@pytest.mark.parametrize("part", ["corpus.json", "directions.txt", "dict.txt", "spm.model"])
def test_a_missing_part_is_named(toy: Path, part: str) -> None:
    (toy / part).unlink()
    with pytest.raises(UserError, match=part):
        DataFolder.open(toy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1, "pairs": [], "splits": {}}'])
def test_a_damaged_card_is_an_error(toy: Path, text: str) -> None:
    (toy / "corpus.json").write_text(text)
    with pytest.raises(UserError, match=r"corpus\.json"):
        DataFolder.open(toy)


@pytest.mark.parametrize("text", ["", "aa-en\nnonsense\n", "aa-en\naa-bb\n"])
def test_a_damaged_list_of_directions_is_an_error(toy: Path, text: str) -> None:
    (toy / "directions.txt").write_text(text)
    with pytest.raises(UserError, match=r"directions\.txt"):
        DataFolder.open(toy)


def test_unknown_names_get_the_known_ones(toy_master: Path) -> None:
    folder = DataFolder.open(toy_master)
    with pytest.raises(UserError, match="'aa-xx'.*aa-en, en-aa, bb-en, en-bb"):
        folder.check_direction("aa-xx")
    with pytest.raises(UserError, match="'xx'.*aa, bb, en"):
        folder.check_language("xx")
    with pytest.raises(UserError, match="'dev'.*train, valid, test"):
        folder.check_split("dev")
    with pytest.raises(UserError, match="unknown direction"):
        folder.pair_of("aa-bb")


def test_a_dictionary_without_a_tag_is_an_error(toy: Path) -> None:
    path = toy / "dict.txt"
    path.write_text(path.read_text().replace("<2bb> 1", "other 1"))
    with pytest.raises(UserError, match="no <2bb>"):
        DataFolder.open(toy).dictionary()


@pytest.mark.parametrize("line", ["word", "k 1", "\udcff 1"])
def test_an_unreadable_dictionary_is_an_error(toy: Path, line: str) -> None:
    path = toy / "dict.txt"
    path.write_text(f"{path.read_text()}{line}\n", errors="surrogateescape")
    with pytest.raises(UserError, match=r"dict\.txt"):
        DataFolder.open(toy).dictionary()


def test_a_dictionary_of_another_size_than_the_card_is_an_error(toy: Path) -> None:
    edit_card(toy, vocab_size=1)
    with pytest.raises(UserError, match="corpus.json says 1"):
        DataFolder.open(toy).dictionary()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("one\n")])
def test_references_that_do_not_fit_the_binarised_text_are_an_error(toy: Path, damage: object) -> None:
    damage(toy / "text" / "valid.aa-en.en")  # type: ignore[operator]
    with pytest.raises(UserError, match=r"valid\.aa-en\.en"):
        DataFolder.open(toy).references("valid", "aa-en")


def test_references_that_are_not_text_are_an_error(toy: Path) -> None:
    (toy / "text" / "valid.aa-en.en").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="UTF-8"):
        DataFolder.open(toy).references("valid", "aa-en")


@pytest.mark.parametrize("changes", [{"pairs": ["../../x-en"]}, {"splits": {"../train": {}}}, {"splits": {"": {}}}])
def test_names_that_lead_elsewhere_are_an_error(toy: Path, changes: dict[str, object]) -> None:
    card = json.loads((toy / "corpus.json").read_text())
    (toy / "corpus.json").write_text(json.dumps({**card, **changes}))
    with pytest.raises(UserError, match="cannot be the name of a file"):
        DataFolder.open(toy)


def test_name_that_is_not_utf8_is_told(toy: Path) -> None:
    with pytest.raises(UserError, match="a name that is not UTF-8; rename it"):
        DataFolder.open(toy.rename(toy.with_name("caf\udce9")))


def test_a_folder_without_text_is_no_damaged_one(toy: Path) -> None:
    for path in [*toy.glob("*.idx"), *toy.glob("*.bin")]:
        path.unlink()
    folder = DataFolder.open(toy)
    with pytest.raises(UserError, match="has no text, as exported models have none: name a data folder"):
        folder.verify_text("valid", ["aa-en"])
