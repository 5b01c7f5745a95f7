"""The page itself: structure, text of any script, narrow screens."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from smoe_mt.analysis.figures.base import canvas
from smoe_mt.report.content import Code, Example, Examples, Section, Table, Text
from smoe_mt.report.curve_figures import picture
from smoe_mt.report.render import readable_width, write_html

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = "<img src=x onerror=\"document.title='broken'\">&amp;"
ARABIC = "\u0628\u064a\u062a \u0643\u0628\u064a\u0631"
LONG = "an_unbroken_name_of_a_run_" * 4


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Everything that may be too wide: long names, many columns, a wide figure, an unbroken output."""
    table = Table(
        ("Run", *(f"column {n}" for n in range(30))), [[LONG, *["12.34"] * 30]] * 2,
        marked=frozenset({1}), best=frozenset({(0, 3)}), minor=frozenset({5}),
    )  # fmt: skip
    drawing = canvas(14, 3)
    drawing.subplots().plot([1, 2])
    example = Example("median", 7, ARABIC, NASTY, {LONG: ("x" * 300, 12.345)})
    shown = Examples({"ar-en": [example], "pt_BR-en": [example], NASTY: [example]}, open=2)
    wide = picture("wide", "Wide", "A caption.", drawing)
    sections = [Section("All", [Text(LONG), table, wide, shown, Code("code", "y" * 500)])]
    write_html(tmp_path / "r.html", "smoe_mt: " + LONG, sections)
    return tmp_path / "r.html"


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_structure_for_readers_by_ear_and_keyboard(page: Path) -> None:
    elements = Elements(page.read_text(encoding="utf-8"))
    assert elements.of("html") == [{"lang": "en"}]
    assert len(elements.of("h1")) == len(elements.of("main")) == 1
    assert all(cell.get("scope") in ("col", "row") for cell in elements.of("th"))
    assert all(image.get("alt") for image in elements.of("img"))
    boxes = [box for box in elements.of("div") if box.get("class") in ("wide", "drawing")]
    assert len(boxes) == 2 and all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)


def test_the_best_is_told_by_more_than_colour(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count('<strong class="best">') == 1
    assert re.search(r"\.best \{[^}]*underline", text)


def test_outputs_are_escaped_and_written_in_their_direction(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert NASTY not in text
    assert f'<span lang="ar" dir="rtl">{ARABIC}</span>' in text and 'lang="pt-BR"' in text
    assert text.count("<details") == text.count("</details>") == 2, "directions beyond the open ones, and the code"
    assert text.index("<summary>1 more directions") > text.index('lang="pt-BR"')


def test_a_drawing_keeps_readable_letters(page: Path) -> None:
    width = readable_width(b'<?xml?><svg xmlns="x" width="504pt" height="1pt">')
    assert width == int(0.8 * 672)
    assert readable_width(b"<svg>") == 0
    (image,) = Elements(page.read_text(encoding="utf-8")).of("img")
    assert image["style"] == f"min-width: {int(0.8 * 14 * 96)}px"


def test_tables_and_figures_for_papers_lie_beside_the_page(page: Path) -> None:
    files = {path.name for path in page.with_name("r_files").iterdir()}
    assert files == {"table.tex", "table.csv", "table.md", "wide.pdf"}
    assert (page.with_name("r_files") / "wide.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine: a page cannot be opened")
@pytest.mark.parametrize("width", [320, 420, 1200])
def test_no_screen_is_too_narrow(page: Path, width: int) -> None:
    """A browser's own window is never narrower than 500 pixels, so the page is in a frame."""
    frame = page.with_name("frame.html")
    measure = "document.title = this.contentDocument.documentElement.scrollWidth"
    frame.write_text(
        f'<title>-</title><iframe src="r.html" style="width:{width}px;border:0" onload="{measure}"></iframe>'
    )
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    command += [
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert re.findall("<title>(.*?)</title>", done.stdout)[:1] == [str(width)], done.stderr[-2000:]
