"""One object that translates, on a real tiny model."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import multiprocessing
import pickle
import shutil
import sys
import threading
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from smoe_mt import cli
from smoe_mt.errors import UserError
from smoe_mt.generation import Decoding, RoutingOptions, Text, Translator
from smoe_mt.generation.calibration import Calibrated
from smoe_mt.processes import map_unordered
from smoe_mt.search.beam import BeamDecoder
from smoe_mt.search.steps import SingleModel
from tests.conftest import TrainedRun


@pytest.fixture(scope="module")
def translator(trained_run: TrainedRun) -> Translator:
    return Translator.from_pretrained(trained_run.folder, device="cpu")


@pytest.fixture(scope="module")
def sentences(translator: Translator) -> list[str]:
    return translator.loaded.task.folder.references("test", "aa-en", side="source")


def test_alone_or_in_any_company_the_same(translator: Translator, sentences: list[str]) -> None:
    together = translator.translate(sentences, "aa", "en")
    alone = [translator.translate([sentence], "aa", "en")[0] for sentence in sentences]
    some = translator.translate(sentences, "aa", "en", max_tokens=30)
    assert together == alone == some
    assert len(set(together)) > 5


def test_output_is_in_the_inputs_order(translator: Translator, sentences: list[str]) -> None:
    backwards = translator.translate(sentences[::-1], "aa", "en")
    assert backwards[::-1] == translator.translate(sentences, "aa", "en")


def test_texts_of_several_directions_together(translator: Translator, sentences: list[str]) -> None:
    english = translator.loaded.task.folder.references("test", "bb-en", side="target")
    texts = [Text(sentences, "aa", "en"), Text([], "bb", "en"), Text(["", *english], "en", "bb")]
    found = [[one.text for one in text] for text in translator.translate_together(texts)]
    assert found == [translator.translate(text.lines, text.source, text.target) for text in texts]
    with pytest.raises(UserError, match="unknown language 'xx'"):
        translator.translate_together([texts[0], Text([], "aa", "xx")])


def test_processes_give_what_one_gives(
    translator: Translator, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smoe_mt.generation.translator.SHORTEST_BATCH", 20)
    counted: list[int] = []
    one, two = (
        translator.translate_in_detail(
            ["", *sentences], "aa", "en", nbest=2, routing=True, processes=processes, progress=counted.append
        )
        for processes in (1, 2)
    )
    assert [each.source for each in two] == ["", *sentences]
    for mine, theirs in zip(one, two, strict=True):
        assert [candidate.text for candidate in mine.candidates] == [candidate.text for candidate in theirs.candidates]
        for first, second in zip(mine.candidates, theirs.candidates):
            assert first.score == pytest.approx(second.score, abs=1e-5)
            assert (first.source_visits, first.target_visits) == (second.source_visits, second.target_visits)
    assert sum(counted) == 2 * (len(sentences) + 1) and len(counted) > 4, "several batches in each pass"


def test_no_more_processes_than_there_is_memory_for(
    translator: Translator, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    def watched(work: Callable[[int], Any], count: int, processes: int) -> Iterator[tuple[int, Any]]:
        used.append(processes)
        return map_unordered(work, count)

    monkeypatch.setattr("smoe_mt.generation.translator.map_unordered", watched)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    translator.translate(sentences, "aa", "en", processes=None)
    monkeypatch.setattr("smoe_mt.processes.free_memory", lambda: 1000)
    translator.translate(sentences, "aa", "en", processes=None)
    assert used == [2, 1]


def test_the_tag_decides(translator: Translator, sentences: list[str]) -> None:
    english = translator.loaded.task.folder.references("test", "bb-en", side="target")
    assert translator.translate(english, "en", "aa") != translator.translate(english, "en", "bb")


def test_empty_lines_stay_empty(translator: Translator, sentences: list[str]) -> None:
    lines = ["", sentences[0], "  \t", sentences[1]]
    found = translator.translate(lines, "aa", "en")
    assert found[0] == found[2] == ""
    assert [found[1], found[3]] == translator.translate(sentences[:2], "aa", "en")


def test_nothing_gives_nothing(translator: Translator) -> None:
    assert translator.translate([], "aa", "en") == []


def test_a_sentence_that_runs_on_is_cut_at_its_own_limit(translator: Translator, sentences: list[str]) -> None:
    task = translator.loaded.task
    encoded = [task.encode(sentence, "en") for sentence in (sentences[0], " ".join(sentences[:5]))]
    decoding = Decoding(beam=3, max_len_a=0.0, max_len_b=2)
    found = BeamDecoder(SingleModel(translator.loaded.model), task.dictionary, decoding)(encoded)
    assert all(len(hypothesis.tokens) <= 2 for sentence in found for hypothesis in sentence)
    decoding = Decoding(beam=3, max_len_a=0.5, max_len_b=0)
    found = BeamDecoder(SingleModel(translator.loaded.model), task.dictionary, decoding)(encoded)
    for source, hypotheses in zip(encoded, found):
        assert len(hypotheses) == 3
        assert all(len(hypothesis.tokens) <= decoding.limit(len(source)) for hypothesis in hypotheses)


def test_limits_do_not_depend_on_the_batch(translator: Translator, sentences: list[str]) -> None:
    lines = [sentences[0], " ".join(sentences[:8])]
    options = {"max_len_a": 0.4, "max_len_b": 0}
    together = translator.translate(lines, "aa", "en", **options)
    assert together == [translator.translate([line], "aa", "en", **options)[0] for line in lines]


@pytest.mark.parametrize("beam", [1, 4])
def test_the_same_as_fairseqs_own_search(translator: Translator, sentences: list[str], beam: int) -> None:
    """Also after a search with another beam: fairseq leaves the beam size in the model."""
    task, model = translator.loaded.task, translator.loaded.model
    encoded = [task.encode(sentence, "en") for sentence in sentences]
    longest = max(map(len, encoded))
    own = BeamDecoder(SingleModel(model), task.dictionary, Decoding(beam, max_len_a=0, max_len_b=longest))
    translator.translate(sentences[:2], "aa", "en", beam=3)
    found = own(encoded)
    generator = task.build_generator([model], Namespace(beam=beam, max_len_a=0, max_len_b=longest))
    expected = generator.generate([model], task.collate(encoded))
    for mine, theirs in zip(found, expected):
        assert mine[0].tokens.tolist() == theirs[0]["tokens"][:-1].tolist()
        assert mine[0].score == pytest.approx(float(theirs[0]["score"]), abs=1e-4)


def test_hypotheses_come_best_first(translator: Translator, sentences: list[str]) -> None:
    task = translator.loaded.task
    found = BeamDecoder(SingleModel(translator.loaded.model), task.dictionary, Decoding(4))(
        [task.encode(sentences[0], "en")]
    )
    scores = [hypothesis.score for hypothesis in found[0]]
    assert scores == sorted(scores, reverse=True)


def test_too_long_a_line_is_cut_with_a_warning(translator: Translator, sentences: list[str]) -> None:
    long = " ".join(sentences)
    with pytest.warns(UserWarning, match="cut to the 64 that the model takes"):
        found = translator.translate([sentences[0], long], "aa", "en")
    assert found[0] == translator.translate([sentences[0]], "aa", "en")[0]


def test_the_text_of_a_warning_is_not_kept(
    translator: Translator, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is another one: through a pipe that is open for long, they would fill the memory."""
    shown: list[object] = []
    before = {name: len(vars(module).get("__warningregistry__", ())) for name, module in list(sys.modules.items())}
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        monkeypatch.setattr(warnings, "showwarning", lambda *args, **_: shown.append(args))
        for number in range(5):
            translator.translate([f"{number} {' '.join(sentences)}"], "aa", "en", beam=1, max_len_a=0, max_len_b=2)
    assert len(shown) == 5
    for name, count in before.items():
        assert len(vars(sys.modules[name]).get("__warningregistry__", ())) <= count + 1, name


def test_lines_that_fit_bring_no_warning(translator: Translator, sentences: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        translator.translate(sentences[:2], "aa", "en")


@pytest.mark.parametrize(("source", "target"), [("xx", "en"), ("en", "xx")])
def test_unknown_language_names_the_known_ones(translator: Translator, source: str, target: str) -> None:
    with pytest.raises(UserError, match="unknown language 'xx': the model knows aa, bb, en"):
        translator.translate(["a"], source, target)


def test_an_untrained_direction_is_translated_and_warned_of_once(trained_run: TrainedRun, sentences: list[str]) -> None:
    translator = Translator.from_pretrained(trained_run.folder, device="cpu")
    with pytest.warns(UserWarning, match="aa-bb is zero-shot: the model was not trained on this direction; expect"):
        found = translator.translate(sentences, "aa", "bb")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert translator.translate(sentences, "aa", "bb") == found
        assert found == translator.translate(sentences, "en", "bb"), "the tag and the source say the same"


def test_a_target_without_a_learned_tag_is_refused(translator: Translator) -> None:
    task = copy.copy(translator.loaded.task)
    task.directions = ("aa-en", "bb-en")
    into_english = Translator(dataclasses.replace(translator.loaded, task=task))
    with pytest.raises(UserError, match="cannot translate into bb: it was trained to translate into en alone"):
        into_english.translate(["a"], "aa", "bb")


def test_a_source_that_was_never_read_is_said(translator: Translator) -> None:
    task = copy.copy(translator.loaded.task)
    task.directions = ("en-aa", "en-bb")
    from_english = Translator(dataclasses.replace(translator.loaded, task=task))
    with pytest.warns(UserWarning, match="aa-bb is zero-shot: .*, nor to translate from aa at all"):
        from_english.check("aa", "bb")


def test_the_source_language_is_no_target(translator: Translator) -> None:
    with pytest.raises(UserError, match="source and target are both aa"):
        translator.translate(["a"], "aa", "aa")


@pytest.mark.parametrize("options", [{"beam": 0}, {"max_len_a": -1.0}, {"max_len_a": 0.0, "max_len_b": 0}])
def test_settings_that_make_no_sense(translator: Translator, options: dict[str, float]) -> None:
    with pytest.raises(UserError):
        translator.translate(["a"], "aa", "en", **options)  # type: ignore[arg-type]


def test_progress_counts_every_line(translator: Translator, sentences: list[str]) -> None:
    counted: list[int] = []
    translator.translate(["", *sentences[:3]], "aa", "en", max_tokens=1, progress=lambda n: counted.append(n))
    assert sum(counted) == 4


def test_progress_on_demand(translator: Translator, sentences: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    translator.translate(sentences[:2], "aa", "en", progress=True)
    assert "aa-en" in capsys.readouterr().err
    translator.translate(sentences[:2], "aa", "en")
    assert capsys.readouterr().err == ""


def test_the_model_is_left_as_it_was(translator: Translator, sentences: list[str]) -> None:
    task, model = translator.loaded.task, translator.loaded.model
    sample = task.collate([task.encode(sentence, "en") for sentence in sentences])
    with torch.no_grad():
        before, _ = model(**sample["net_input"])
        translator.translate(sentences, "aa", "en", beam=5)
        after, _ = model(**sample["net_input"])
    assert torch.equal(before, after)


def test_threads_with_settings_of_their_own_get_what_they_get_alone(
    translator: Translator, sentences: list[str]
) -> None:
    jobs = [(sentences[i::6], {"beam": beam}) for i, beam in enumerate((1, 5, 2, 5, 3, 4))]
    alone = [translator.translate(part, "aa", "en", **options) for part, options in jobs]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            found = [pool.submit(translator.translate, part, "aa", "en", **options) for part, options in jobs]
            assert [each.result() for each in found] == alone


def test_threads_may_ask_for_routing_beside_each_other(translator: Translator, sentences: list[str]) -> None:
    def visits(part: list[str], routing: bool) -> list[Any]:
        found = translator.translate_in_detail(part, "aa", "en", routing=routing)
        return [one.candidates[0].source_visits for one in found]

    jobs = [(sentences[i::4], bool(i % 2)) for i in range(4)]
    alone = [visits(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda job: visits(*job), jobs)) == alone


def test_error_of_the_callers_generator_passes(translator: Translator) -> None:
    def lines() -> Iterator[str]:
        yield "a"
        raise TypeError("the caller's own")

    with pytest.raises(TypeError, match="the caller's own"):
        translator.translate(lines(), "aa", "en")


def test_pickled_it_translates_the_same_without_its_checkpoint(trained_run: TrainedRun, tmp_path: Path) -> None:
    copied = shutil.copytree(trained_run.folder, tmp_path / "run")
    translator = Translator.from_pretrained(copied, data=trained_run.data, device="cpu")
    with torch.no_grad():
        translator.loaded.model.encoder.embed_tokens.weight[10:] += 0.02  # what is in memory counts
    lines = translator.loaded.task.folder.references("test", "aa-en", side="source")
    expected = [one.candidates for one in translator.translate_in_detail(lines, "aa", "en", routing=True)]
    pickled = pickle.dumps(translator)
    shutil.rmtree(copied)
    other = pickle.loads(pickled)
    assert [one.candidates for one in other.translate_in_detail(lines, "aa", "en", routing=True)] == expected
    assert (other.loaded.updates, other.loaded.epoch) == (translator.loaded.updates, translator.loaded.epoch)
    model = other.loaded.model
    assert model.encoder.embed_tokens.weight is model.decoder.output_projection.weight
    assert len(pickled) < 1.5 * sum(parameter.numel() * 4 for parameter in model.parameters()) + 50_000


def test_pickled_it_keeps_precision_ensemble_and_routing(
    translator: Translator, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Calibrated(asked=1.2, bias=-0.5, mean=1.19)
    monkeypatch.setattr("smoe_mt.generation.routing.calibrate", lambda *_: found)
    halved = Translator.from_pretrained(translator.loaded.checkpoint, device="cpu", dtype="bf16")
    together = Translator(translator.loaded, halved.loaded, routing=RoutingOptions(capacity="mean=1.2"))
    monkeypatch.setattr("smoe_mt.generation.routing.calibrate", lambda *_: pytest.fail("calibrated again"))
    other = pickle.loads(pickle.dumps(together))
    assert next(other.models[1].model.parameters()).dtype is torch.bfloat16
    assert other.calibrations == [str(found)] * 2
    assert other.translate(sentences[:4], "aa", "en") == together.translate(sentences[:4], "aa", "en")


def in_a_process(translator: Translator, lines: list[str]) -> list[str]:
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    return translator.translate(lines, "aa", "en")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_processes_of_ones_own_get_what_this_one_gets(
    translator: Translator, sentences: list[str], method: str
) -> None:
    expected = translator.translate(sentences, "aa", "en")
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert pool.submit(in_a_process, translator, sentences).result(timeout=120) == expected


def test_a_forked_process_does_not_wait_for_a_search_of_its_parents_threads(
    translator: Translator, sentences: list[str]
) -> None:
    expected = translator.translate(sentences[:2], "aa", "en")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with translator.loaded.lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=lambda: results.put(in_a_process(translator, sentences[:2])), daemon=True)
    process.start()
    process.join(30)
    done.set()
    thread.join()
    assert not process.is_alive() and results.get() == expected


def test_a_stream_is_translated_as_it_comes(translator: Translator, sentences: list[str]) -> None:
    read: list[str] = []

    def endless() -> Iterator[str]:
        for line in itertools.cycle(sentences):
            read.append(line)
            yield line

    found = translator.stream(endless(), "aa", "en", ahead=3)
    assert read == []
    assert list(itertools.islice(found, 7)) == translator.translate(sentences[:7], "aa", "en")
    assert len(read) == 9


def test_a_streams_error_comes_after_what_was_translated(translator: Translator, sentences: list[str]) -> None:
    def lines() -> Iterator[str]:
        yield from sentences[:2]
        raise TypeError("the caller's own")

    found = translator.stream(lines(), "aa", "en", ahead=2, beam=1)
    assert [next(found), next(found)] == translator.translate(sentences[:2], "aa", "en", beam=1)
    with pytest.raises(TypeError, match="the caller's own"):
        next(found)
    with pytest.raises(UserError, match=r"lines\[3\]: must be text, not int"):
        list(translator.stream(["a", "b", "c", 4], "aa", "en", ahead=2))  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("lines", "target", "options", "message"),
    [
        ("one text", "en", {}, "lines: give a list of sentences"),
        (["a"], "xx", {}, "unknown language 'xx'"),
        (["a"], "en", {"ahead": 0}, "ahead is 0: it must be 1 or more"),
        (["a"], "en", {"beam": 0}, "beam is 0"),
        (["a"], "en", {"prefix": ["b"]}, "prefix: give one text for all lines of a stream"),
    ],
)
def test_a_stream_that_makes_no_sense_is_told_at_once(
    translator: Translator, lines: Any, target: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        translator.stream(lines, "aa", target, **options)


@pytest.mark.parametrize("path", [None, 3, b"run", [3]])
def test_model_that_is_no_path_is_told(path: Any) -> None:
    with pytest.raises(UserError, match="give the path of a model, or a list of paths, not "):
        Translator.from_pretrained(path)


@pytest.mark.parametrize("line", ["", " \t", "\ufeff", "\x00", "\x85\u2028"])
def test_line_without_text_stays_empty(translator: Translator, line: str) -> None:
    assert translator.translate([line], "aa", "en") == [""]


def test_generator_of_lines_is_taken(translator: Translator, sentences: list[str]) -> None:
    assert translator((line for line in sentences[:3]), "aa", "en") == translator.translate(sentences[:3], "aa", "en")


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("one sentence", {}, "lines: give a list of sentences"),
        (None, {}, "lines: give a list of sentences, not NoneType"),
        (b"one sentence", {}, r"lines: give a list of sentences, such as \['one sentence'\]"),
        ({"a": 1}, {}, "lines: give a list of sentences, not dict"),
        ({"a", "b"}, {}, "lines: give a list of sentences, not set"),
        (["a", "b\ud800"], {}, r"lines\[1\]: 'b\\ud800' is no text"),
        (["a", None], {}, r"lines\[1\]: must be text, not NoneType"),
        (["a"], {"beam": 2.5}, "beam is 2.5: it must be a whole number of 1 or more"),
        (["a"], {"lenpen": float("nan")}, "lenpen is nan: it must be a finite number"),
        (["a"], {"max_tokens": 0}, "max_tokens is 0: it must be 1 or more"),
        (["a"], {"processes": -1}, "processes is -1"),
    ],
)
def test_argument_that_makes_no_sense_is_named(
    translator: Translator, given: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        translator.translate(given, "aa", "en", **options)


def test_representation_names_checkpoint_and_languages(translator: Translator) -> None:
    assert "checkpoint_best.pt" in repr(translator) and "aa, bb, en" in repr(translator)


@pytest.mark.parametrize("beam", [1, 4])
def test_translations_begin_with_their_prefixes_in_any_company(
    translator: Translator, sentences: list[str], beam: int
) -> None:
    words = translator.translate(sentences[1:], "aa", "en") + sentences[:1]
    prefixes = ["" if place % 3 == 0 else line.split()[0] for place, line in enumerate(words)]
    found = translator.translate(sentences, "aa", "en", beam=beam, prefix=prefixes)
    assert all(line.startswith(prefix) for line, prefix in zip(found, prefixes))
    free = translator.translate(sentences, "aa", "en", beam=beam)
    assert found != free and found[::3] == free[::3]
    alone = [
        translator.translate([line], "aa", "en", beam=beam, prefix=prefix)[0]
        for line, prefix in zip(sentences, prefixes)
    ]
    assert found == alone


def test_a_prefix_that_is_the_translation_gives_its_score(translator: Translator, sentences: list[str]) -> None:
    decoding = Decoding(beam=3)
    for best in translator.translate_in_detail(sentences[:5], "aa", "en", decoding):
        forced = translator.translate_in_detail([best.source], "aa", "en", decoding, best.text)[0]
        if forced.text == best.text:
            assert forced.score == pytest.approx(best.score, abs=1e-4)
        else:  # the search had not ended there: what goes on is better
            assert forced.text.startswith(best.text) and forced.score > best.score - 1e-4


def test_one_prefix_for_all_may_be_longer_than_the_limit(translator: Translator, sentences: list[str]) -> None:
    found = translator.translate(sentences[:3], "aa", "en", prefix=sentences[3], max_len_a=0.0, max_len_b=1)
    assert found == [sentences[3]] * 3


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (["a"], "prefix: 1 for 2 lines"),
        ([None, "a"], r"prefix\[0\]: must be text"),
        ("\ud800", r"prefix\[0\]: '\\ud800' is no text"),
        ("ba " * 99, "an output of the model has"),
    ],
)
def test_a_prefix_that_makes_no_sense_is_told(translator: Translator, prefix: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        translator.translate(["a", "b"], "aa", "en", prefix=prefix)


def test_a_file_of_prefixes_goes_with_the_lines(
    trained_run: TrainedRun, tmp_path: Path, sentences: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").write_text("\n".join(sentences[:3]) + "\n")
    (tmp_path / "prefixes").write_text(f"{sentences[5]}\n\n{sentences[6]}\n")
    command = [
        "translate",
        "-m",
        str(trained_run.folder),
        "-s",
        "aa",
        "-t",
        "en",
        "--device",
        "cpu",
        str(tmp_path / "in"),
    ]
    assert cli.main([*command, "--prefix-file", str(tmp_path / "prefixes")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(sentences[5]) and lines[2].startswith(sentences[6])
    (tmp_path / "prefixes").write_text("\n")
    assert cli.main([*command, "--prefix-file", str(tmp_path / "prefixes")]) == 2
    assert "prefixes has 1 lines, and the input has more" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="no VNNI")
def test_int8_translates_alike_in_any_company_and_in_another_process(
    trained_run: TrainedRun, translator: Translator, sentences: list[str]
) -> None:
    precise = translator.translate(sentences, "aa", "en")
    fast = Translator.from_pretrained(trained_run.folder, device="cpu", dtype="int8")
    found = fast.translate(sentences, "aa", "en")
    assert [fast.translate([each], "aa", "en")[0] for each in sentences[:3]] == found[:3]
    assert sum(a == b for a, b in zip(found, precise)) > len(sentences) / 2
    assert pickle.loads(pickle.dumps(fast)).translate(sentences[:3], "aa", "en") == found[:3]
