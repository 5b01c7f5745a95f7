"""The facts of the three benchmarks that preparing their data needs (paper, section 3), in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from smoe_mt.errors import UserError
from smoe_mt.language_codes import ENGLISH, pair_name


@dataclass(frozen=True)
class Benchmark:
    """A set of languages that are translated from and into English.

    ``published``: sentence pairs with English that the paper trained on. ``vocab_size``: joint SentencePiece pieces.
    ``minimum``: clean pairs of sentences that a language must have; one with fewer is left out where
    ``optional`` says that the benchmark does without, else it is an error. ``l10n_most``: training pairs of a language
    that are used of it.
    """

    name: str
    languages: tuple[str, ...]
    vocab_size: int
    minimum: int
    optional: bool = False
    l10n_most: int | None = None
    published: Mapping[str, int] = field(default_factory=dict)

    @property
    def pairs(self) -> tuple[str, ...]:
        """With English, as they are stored."""
        return tuple(pair_name(language, ENGLISH) for language in self.languages)

    def check(self, language: str) -> None:
        """UserError for a language that the benchmark lacks."""
        if language not in (*self.languages, ENGLISH):
            raise UserError(
                f"{self.name} has no language '{language}': it has {', '.join(self.languages)} and {ENGLISH}"
            )


def _codes(text: str) -> tuple[str, ...]:
    return tuple(text.split())


M4 = {"nso": 526_000, "msa": 1_000_000, "tgl": 1_000_000, "cat": 634_000}
M15 = M4 | {
    "run": 454_000,
    "ssw": 94_000,
    "ind": 6_500_000,
    "nob": 238_000,
    "isl": 1_000_000,
    "fao": 4_000,
    "slv": 15_000_000,
    "ltz": 8_000,
    "lim": 5_000,
    "glg": 195_000,
    "fur": 6_000,
}
OPUS100 = _codes(
    "af am an ar as az be bg bn br bs ca cs cy da de dz el eo es et eu fa fi fr fy ga gd gl gu ha he hi hr hu hy "
    "id ig is it ja ka kk km kn ko ku ky li lt lv mg mk ml mn mr ms mt my nb ne nl nn no oc or pa pl ps pt ro ru "
    "rw se sh si sk sl sq sr sv ta te tg th tk tr tt ug uk ur uz vi wa xh yi yo zh zu"
)
#: OPUS-100 has no dev and test sets for these.
OPUS100_UNTESTED = ("an", "dz", "hy", "mn", "yo")

BENCHMARKS = {
    "m4": Benchmark("m4", tuple(M4), 32_000, 4_000, published=M4),
    "m15": Benchmark("m15", tuple(M15), 32_000, 300, published=M15),
    "opus100": Benchmark("opus100", OPUS100, 64_000, 5_000, optional=True, l10n_most=50_000),
}


def benchmark_named(name: str) -> Benchmark:
    """UserError, naming the known ones, for an unknown one."""
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark '{name}': give --benchmark {' or '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
