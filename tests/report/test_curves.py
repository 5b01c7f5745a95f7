"""Reading curves from events and logs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from smoe_mt.moe.names import Block
from smoe_mt.report.content import Picture, Text
from smoe_mt.report.curve_figures import curve_pictures, load_picture, loads_of, strata_at
from smoe_mt.report.curves import Curves, parse_log, read_curves
from smoe_mt.report.run import Run

TEXT = """\
[2026-11-24 09:57:44,773][train_inner][INFO] - epoch 001:    100 / 2682 loss=11.138, ppl=1972.74, num_updates=100, lr=3e-05
2026-11-24 09:58:44 | INFO | train_inner | epoch 001:    200 / 2682 loss=8.9, ppl=338.74, num_updates=200, lr=0.0022
2026-11-24 09:58:45 | INFO | fairseq.trainer | loss=1, num_updates=250
[2026-11-24 10:02:28,037][valid][INFO] - epoch 001 | valid on 'valid' subset | loss 7.243 | bleu 1.56 | num_updates 200
"""
JSON = """\
2026-11-24 09:58:44 | INFO | train_inner | {"epoch": 1, "update": 0.04, "loss": "11.138", "lr": "3e-05", "num_updates": "100"}
2026-11-24 09:58:44 | INFO | train_inner | {"epoch": 1, "update": 0.08, "loss": "8.9", "lr": "0.0022", "num_updates": "200"}
2026-11-24 10:02:28 | INFO | valid | {"epoch": 1, "valid_loss": "7.243", "valid_bleu": "1.56", "valid_num_updates": "200"}
"""
SIZES = {f"{side}_{name}": 16 for side in ("encoder", "decoder") for name in ("embed_dim", "ffn_embed_dim")}
STRATIFIED = {"moe": "stratified", "strata": [1, 2], "moe_freq": 2, "encoder_layers": 2, "decoder_layers": 2, **SIZES}


def make_run(folder: Path, logdir: str | None = None) -> Run:
    config = {"model": STRATIFIED, "task": {}, "common": {"tensorboard_logdir": logdir}}
    return Run("run", folder / "checkpoint_best.pt", config, 200, folder / "data")


@pytest.mark.parametrize("log", [TEXT, JSON], ids=["text", "json"])
def test_log(log: str) -> None:
    series = parse_log(log.splitlines())
    assert series["train_inner"]["loss"] == [(100, 11.138), (200, 8.9)]
    assert series["train_inner"]["lr"] == [(100, 3e-5), (200, 0.0022)]
    assert series["valid"]["loss"] == [(200, 7.243)] and series["valid"]["bleu"] == [(200, 1.56)]


def test_a_training_that_was_taken_up_again_counts_once() -> None:
    again = TEXT.splitlines()[1].replace("8.9", "8.7")
    assert parse_log([*TEXT.splitlines(), again])["train_inner"]["loss"] == [(100, 11.138), (200, 8.7)]


HEAD = "2026-11-24 09:58:44 | INFO | train_inner | epoch 001: num_updates=100, "


@pytest.mark.parametrize(
    "line",
    [
        HEAD + "x" * 1_000_000,
        HEAD + "1" * 1_000_000,
        HEAD + "loss=" + "1" * 1_000_000 + "x",
        HEAD + "a.b/" * 250_000,
        " valid" * 200_000,
        " valid {" * 100_000,
        " valid " + "{" * 1_000_000,
        " valid " + '{"a":' * 200_000 + "}",
        " valid epoch " + "loss 1 " * 100_000,
    ],
    ids=["letters", "digits", "number", "name", "parts", "parts and braces", "braces", "deep JSON", "values"],
)
def test_a_long_line_takes_time_in_proportion(line: str) -> None:
    """With time in proportion to its square, these would take hours."""
    parse_log([line])


@pytest.mark.parametrize("value", ["Infinity", "NaN", "1" + "0" * 400, '"inf"'])
def test_a_number_of_updates_that_is_none_is_left_out(value: str) -> None:
    assert not any(parse_log([f' valid {{"num_updates": {value}, "loss": 1}}']).values())


def test_tags_stand_in_the_order_of_their_numbers_whatever_those_are() -> None:
    tags = ["load/10", "load/2", "load/" + "9" * 5000, "load/\u00b2"]
    assert Curves({"valid": {tag: [] for tag in tags}}, "").tags("valid", "load")[:2] == ["load/2", "load/10"]


def write_events(folder: Path, values: dict[str, float]) -> None:
    for part in ("train_inner", "valid"):
        with SummaryWriter(str(folder / part)) as writer:
            for update in (100, 200):
                for tag, value in values.items():
                    writer.add_scalar(tag, value + update / 1000, update)


def test_events_come_before_logs(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(TEXT)
    write_events(tmp_path / "tensorboard", {"loss": 5.0})
    curves = read_curves(make_run(tmp_path))
    assert curves is not None and curves.source.endswith("tensorboard")
    assert curves.of("valid", "loss") == [(100, pytest.approx(5.1)), (200, pytest.approx(5.2))]


def test_events_of_a_run_that_was_moved(tmp_path: Path) -> None:
    write_events(tmp_path / "old" / "events", {"loss": 5.0})
    shutil.move(tmp_path / "old", tmp_path / "new")
    curves = read_curves(make_run(tmp_path / "new", logdir=str(tmp_path / "old" / "events")))
    assert curves is not None and len(curves.of("train_inner", "loss")) == 2


def test_a_log_where_there_are_no_events(tmp_path: Path) -> None:
    (tmp_path / "hydra_train.log").write_text(TEXT)
    curves = read_curves(make_run(tmp_path))
    assert curves is not None and curves.of("valid", "bleu") == [(200, 1.56)]
    missing = load_picture(make_run(tmp_path), curves, 1)
    assert isinstance(missing, Text) and "that needs common.tensorboard_logdir" in missing.text


@pytest.mark.parametrize("name", ["z.log", "tensorboard/valid/events.out.tfevents.1"])
def test_neither_a_pipe_nor_a_device_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).symlink_to("/dev/zero")
    assert read_curves(make_run(tmp_path)) is None
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    (tmp_path / "a.log").write_text(TEXT)
    curves = read_curves(make_run(tmp_path))
    assert curves is not None and curves.source.endswith("a.log")


def test_neither(tmp_path: Path) -> None:
    (tmp_path / "other.log").write_text("nothing of interest\n")
    assert read_curves(make_run(tmp_path)) is None


def test_pictures_of_what_there_is(tmp_path: Path) -> None:
    loads = {f"load/encoder.layers.1/gate1/expert{number}": 0.3 for number in (1, 2, 3)}
    loads |= {f"load/decoder.layers.1/gate1/expert{number}": number / 10 for number in (1, 2)}
    write_events(tmp_path / "tensorboard", {"loss": 5.0, "overflow": 0.1, **loads})
    run = make_run(tmp_path)
    curves = read_curves(run)
    assert curves is not None
    pictures = curve_pictures({"run": curves, "none": Curves({}, "nowhere")})
    assert [picture.name for picture in pictures] == ["curve_loss", "curve_overflow"]
    load = load_picture(run, curves, 1)
    assert isinstance(load, Picture) and load.svg.startswith(b"<?xml") and load.png.startswith(b"\x89PNG")
    assert b"encoder.layers.1, gate 1" in load.svg and b"decoder.layers.1, gate 1" in load.svg


def test_a_training_without_logged_loads_names_both_settings(tmp_path: Path) -> None:
    text = load_picture(make_run(tmp_path), Curves({}, "run/tensorboard"), 1)
    assert isinstance(text, Text) and "tensorboard_logdir" in text.text and "log_interval" in text.text


def test_a_gate_that_asks_all_its_experts_evenly_is_left_out(tmp_path: Path) -> None:
    constant = {f"load/decoder.layers.1/gate2/expert{number}": [(100, 0.5), (200, 0.5)] for number in (1, 2)}
    varied = {f"load/decoder.layers.1/gate1/expert{number}": [(100, 0.5), (200, number / 3)] for number in (1, 2)}
    run = make_run(tmp_path)
    load = load_picture(run, Curves({"train_inner": {**constant, **varied}}, ""), 1)
    assert isinstance(load, Picture)
    assert b"gate 1" in load.svg and b"gate 2" not in load.svg
    assert load.caption.endswith("evenly throughout: decoder.layers.1 gate 2.")
    none = load_picture(run, Curves({"train_inner": constant}, ""), 1)
    assert isinstance(none, Text) and "has no figure" in none.text and not none.missing


def test_loads_of_a_run_that_a_later_version_went_on_with() -> None:
    old, new = "load/decoder.2.1/expert10", "load/decoder.layers.3/gate1/expert10"
    series = {new: [(200, 0.2)], old: [(100, 0.1)], "load/decoder.2.1/expert9": [(100, 0.9)]}
    series |= {"load/encoder.layers.1/gate2/expert1": [(200, 1.0)], "load/foreign": [(100, 0.3)]}
    assert loads_of(Curves({"train_inner": series}, ""), moe_freq=2) == {
        (Block("encoder", 2), 2): {1: [(200, 1.0)]},
        (Block("decoder", 4), 1): {9: [(100, 0.9)], 10: [(100, 0.1), (200, 0.2)]},
    }


def test_strata_of_the_experts_at_a_gate() -> None:
    encoder, decoder = Block("encoder", 2), Block("decoder", 2)
    model = {**STRATIFIED, "strata": [2, 1, 3]}
    assert strata_at(model, encoder, 1, 6) == [1, 1, 2, 3, 3, 3]
    assert strata_at(model, decoder, 3, 3) == [3, 3, 3]
    assert strata_at({**STRATIFIED, "strata": [[2, 1], [1, 2]]}, decoder, 1, 3) == [1, 2, 2]
    assert strata_at({**STRATIFIED, "moe": "vanilla"}, encoder, 1, 2) == [1, 1]
