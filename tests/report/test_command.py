"""The verb ``report`` on a real tiny run, the page in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from smoe_mt import cli
from smoe_mt.analysis.command import NUMBERS, SENTENCES
from smoe_mt.report.content import Code, Section, Sentences, Table, Text
from smoe_mt.report.render import fence, write_html, write_markdown
from smoe_mt.report.table_files import escape_markdown
from tests.conftest import TrainedRun

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = "</script><img src=x onerror=\"document.title='broken'\">&amp;|`*_"


def test_svg_in_a_page_needs_no_network() -> None:
    """What the check below looks for would be found."""
    assert external_links('<img src="https://example.org/a.png"><p style="background: url(x.png)">') == [
        "https://example.org/a.png",
        "url(x.png)",
    ]


class Links(HTMLParser):
    """Everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            text = value or ""
            if name == "src" or (name == "href" and tag != "a"):
                self.found.append(text)
            self.found += re.findall(r"url\([^)]*\)", text) if name == "style" else []


def external_links(page: str) -> list[str]:
    parser = Links()
    parser.feed(page)
    styles = "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    found = [*parser.found, *re.findall(r"url\([^)]*\)|@import[^;]*", styles)]
    return [link for link in found if not link.startswith("data:")]


@pytest.fixture(scope="module")
def run_folder(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, for a report leaves its analysis there; without evaluation and events."""
    folder = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(trained_run.folder, folder, ignore=shutil.ignore_patterns("evaluation", "analysis", "tensorboard"))
    return folder


@pytest.fixture(scope="module")
def page(run_folder: Path) -> Path:
    out = run_folder.parent / "report.html"
    assert cli.main(["report", str(run_folder), "--out", str(out), "--device", "cpu"]) == 0
    return out


def test_the_page_is_one_file_without_links(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert external_links(text) == []
    assert text.count("data:image/svg+xml;base64,") >= 7, "the figures of the analysis"


def test_missing_parts_are_said(page: Path, run_folder: Path) -> None:
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert f"run was not evaluated: run smoe-mt evaluate {run_folder}" in text
    assert "run has neither TensorBoard events nor a log" in text
    assert "Beside the paper" not in text


def test_a_missing_analysis_is_made_and_then_used(page: Path, run_folder: Path) -> None:
    numbers = run_folder / "analysis" / "test" / NUMBERS
    made = numbers.stat().st_mtime_ns
    assert cli.main(["report", str(run_folder), "--out", str(page), "--device", "cpu"]) == 0
    assert numbers.stat().st_mtime_ns == made


def test_an_analysis_of_another_checkpoint_is_made_again(page: Path, run_folder: Path) -> None:
    numbers = run_folder / "analysis" / "test" / NUMBERS
    content = json.loads(numbers.read_text())
    numbers.write_text(json.dumps({**content, "updates": content["updates"] - 1}))
    assert cli.main(["report", str(run_folder), "--out", str(page), "--device", "cpu"]) == 0
    assert json.loads(numbers.read_text())["updates"] == content["updates"]


def test_scores_stand_beside_the_paper(run_folder: Path, tmp_path: Path, trained_run: TrainedRun) -> None:
    data = tmp_path / "data"
    shutil.copytree(trained_run.data, data)
    card = json.loads((data / "corpus.json").read_text())
    (data / "corpus.json").write_text(json.dumps({**card, "benchmark": "m4"}))
    directions = {"nso-en": {"bleu": 12.345, "signatures": {"bleu": "tok:13a"}}}
    scores = {"directions": directions, "mean": {"bleu": 1.25}, "beam": 5, "baselines": {}}
    folder = run_folder / "evaluation" / "test"
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(scores))
    try:
        out = tmp_path / "report.md"
        command = ["report", str(run_folder), "--data", str(data), "--out", str(out), "--device", "cpu"]
        assert cli.main(command) == 0
    finally:
        shutil.rmtree(run_folder / "evaluation")
    text = out.read_text(encoding="utf-8")
    assert r"| **smoe\_2\_2 (run run)** | **12.35** |" in text or r"| **smoe\_2\_2 (run run)** | **12.34** |" in text
    assert "| SMoE-4-4 (paper) | 30.14 |" in text
    assert "Beam 5; bleu: tok:13a." in text


def test_markdown_has_its_pictures_beside_it(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "my report.md"
    assert cli.main(["report", str(run_folder), "--out", str(out), "--device", "cpu"]) == 0
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", out.read_text(encoding="utf-8"))
    assert len(pictures) >= 7
    assert all((tmp_path / unquote(picture)).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert "<sub>" in out.read_text(encoding="utf-8")


def test_bad_arguments(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "checkpoint_best.pt"
    broken.write_bytes(b"no checkpoint")
    for arguments, message in (
        ([str(run_folder), "--out", str(tmp_path / "report.pdf")], "a report is written as .html"),
        ([str(run_folder), "--out", str(tmp_path / "no" / "report.html")], "there is no folder"),
        ([str(tmp_path / "nowhere")], "no such checkpoint or run folder"),
        ([str(broken), "--out", str(tmp_path / "report.html")], "checkpoint_best.pt: not"),
    ):
        assert cli.main(["report", *arguments]) == 2
        assert message in capsys.readouterr().err


def nasty_sections() -> list[Section]:
    side = {"tokens": [NASTY, "b"], "visits": {"encoder.layers.1": [1, 3], "encoder.layers.3": [2, 3]}}
    other = {"tokens": ["c"], "visits": {"decoder.layers.1": [1], "decoder.layers.3": [1]}}
    runs = {
        "strata": 3,
        "blocks": ["encoder.layers.1", "encoder.layers.3", "decoder.layers.1", "decoder.layers.3"],
        "directions": {
            NASTY: [{"line": 1, "encoder": side, "decoder": other}],
            "en-aa": [{"line": 7, "encoder": other, "decoder": other}],
        },
    }
    table = Table([NASTY, "2"], [[NASTY, NASTY]], NASTY)
    return [Section("Nasty", [Text(NASTY), table, Code(NASTY, NASTY), Sentences({NASTY: runs})])]


def test_markdown_escapes(tmp_path: Path) -> None:
    assert escape_markdown("a|b <c> `d`") == r"a\|b &lt;c&gt; \`d\`"
    assert fence("a ``` b") == "````"
    write_markdown(tmp_path / "r.md", "t", nasty_sections())
    text = (tmp_path / "r.md").read_text()
    shown = text.replace("```\n" + NASTY + "\n```", "")
    assert len(shown) < len(text)
    assert "<img" not in shown and "</script>" not in shown


def test_names_of_elements_are_used_once(page: Path) -> None:
    """The script looks for its elements by name."""
    names = re.findall(r'\bid="([^"]*)"', page.read_text(encoding="utf-8"))
    assert "sentences" in names and len(set(names)) == len(names)


@pytest.fixture
def in_browser(tmp_path: Path):  # type: ignore[no-untyped-def]
    if BROWSER is None:
        pytest.skip("no chromium on this machine: a page cannot be opened")

    def open_page(path: Path) -> str:
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command += ["--virtual-time-budget=5000", "--dump-dom", path.as_uri()]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return open_page


def test_a_browser_shows_tokens_coloured_by_capacity(page: Path, run_folder: Path, in_browser) -> None:  # type: ignore[no-untyped-def]
    dom = in_browser(page)
    shown = json.loads((run_folder / "analysis" / "test" / SENTENCES).read_text())["directions"]
    assert re.findall(r'<option value="(\w\w-\w\w)"', dom) == list(shown)
    first = shown[next(iter(shown))]
    expected = sum(len(sentence[side]["tokens"]) for sentence in first for side in ("encoder", "decoder"))
    tokens = re.findall(r'data-visits="([\d.]+)"[^>]*style="background-color: (rgb\([^)]*\));', dom)
    assert len(tokens) == expected
    colour_of = dict(tokens)
    assert len(set(colour_of.values())) == len(colour_of) == 2, "one visit and two differ in colour"


def test_a_chosen_direction_is_shown_and_text_is_never_markup(tmp_path: Path, in_browser) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "r.html"
    write_html(path, NASTY, nasty_sections())
    dom = in_browser(path)
    assert "<img" not in dom.split("<script")[0], "nothing of the text became an element"
    assert f"<title>{html.escape(NASTY, quote=False)}</title>" in dom
    assert re.findall(r'data-visits="([\d.]+)"', dom) == ["1.5", "3", "1"]
    choose = "<script>const d = document.getElementById('direction'); d.value = 'en-aa';"
    choose += "d.dispatchEvent(new Event('change'));</script></body>"
    path.write_text(path.read_text().replace("</body>", choose))
    assert re.findall(r'data-visits="([\d.]+)"', in_browser(path)) == ["1", "1"]
