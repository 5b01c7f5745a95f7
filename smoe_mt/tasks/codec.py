"""Raw sentences to token ids and back, with the vocabulary of a data folder."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from fairseq.data import Dictionary

from smoe_mt.errors import UserError
from smoe_mt.tasks.data_folder import DataFolder, language_tag
from smoe_mt.text import normalise


class Codec:
    """What a sentence is to a model. It can be pickled; a fairseq task cannot."""

    def __init__(self, folder: DataFolder, dictionary: Dictionary) -> None:
        self.folder = folder
        self.dictionary = dictionary

    @cached_property
    def spm(self) -> Any:
        """The SentencePiece model. UserError for a damaged one."""
        import sentencepiece

        try:
            return sentencepiece.SentencePieceProcessor(model_file=str(self.folder.spm_path))
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{self.folder.spm_path}: not a SentencePiece model; prepare the data folder again"
            ) from error

    def tag(self, language: str) -> int:
        """Token id that asks for a translation into `language`. UserError for an unknown language."""
        self.folder.check_language(language)
        return int(self.dictionary.index(language_tag(language)))

    def symbols(self, text: str) -> list[str]:
        """The pieces of a raw sentence, as the SentencePiece model spells them."""
        found: list[str] = self.spm.encode(normalise(text), out_type=str)
        return found

    def pieces(self, text: str) -> list[int]:
        """Token ids of the pieces of a raw sentence."""
        return [self.dictionary.index(piece) for piece in self.symbols(text)]

    def text(self, tokens: Iterable[int]) -> str:
        """Raw text of token ids, on one line; padding, </s> and tags leave no trace."""
        pieces = [self.dictionary[i] for i in tokens if i not in self._silent]
        return normalise(str(self.spm.decode_pieces(pieces)))

    @cached_property
    def _silent(self) -> frozenset[int]:
        special = (self.dictionary.bos(), self.dictionary.pad(), self.dictionary.eos())
        return frozenset((*special, *(self.tag(language) for language in self.folder.languages)))
