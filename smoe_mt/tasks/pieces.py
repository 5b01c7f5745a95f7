"""The data folder's SentencePiece model in the form that fairseq's command lines call a BPE."""

from __future__ import annotations

from typing import Any

from smoe_mt.text import normalise

WORD_START = "\u2581"


class FolderPieces:
    """Splits raw text into pieces and joins them: what --bpe sentencepiece does, with the model of the data folder."""

    def __init__(self, spm: Any) -> None:
        self.spm = spm

    def encode(self, text: str) -> str:
        """Pieces separated by spaces."""
        return " ".join(self.spm.encode(normalise(text), out_type=str))

    def decode(self, text: str) -> str:
        """Raw text on one line. Text without pieces is raw already (--remove-bpe ran before) and stays as it is."""
        if WORD_START not in text:
            return text
        return normalise(str(self.spm.decode_pieces(text.split(" "))))
