"""Text to token ids and back, in transformers' form: the tag of the target language, the pieces, the end of the sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedTokenizer

from smoe_mt.checkpoints.names import FROM_DATA_FOLDER
from smoe_mt.errors import UserError
from smoe_mt.tasks.codec import Codec
from smoe_mt.tasks.data_folder import DataFolder

FILES = {f"{Path(name).stem}_file": name for name in FROM_DATA_FOLDER}


class SMoETokenizer(PreTrainedTokenizer):
    """The vocabulary of an exported folder.

    ``src_lang`` and ``tgt_lang`` are the data folder's codes, such as "sv". The model is told the target language alone, by a
    tag in front of the source. Text that looks like a special token stays text.
    """

    vocab_files_names = FILES
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]

    def __init__(
        self,
        spm_file: str,
        dict_file: str,
        directions_file: str,
        corpus_file: str,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        **kwargs: Any,
    ) -> None:
        """The four files lie in one folder. UserError for a damaged one, or an unknown language."""
        folder = DataFolder.open(Path(corpus_file).parent)
        self.codec = Codec(folder, folder.dictionary())
        self._target_mode = False
        self._src_lang = self._tgt_lang = ""
        source, target = folder.directions[0].split("-")
        self.src_lang, self.tgt_lang = src_lang or source, tgt_lang or target
        special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        super().__init__(**{**special, **kwargs, "src_lang": self.src_lang, "tgt_lang": self.tgt_lang})

    @property
    def src_lang(self) -> str:
        """Language of the source."""
        return self._src_lang

    @src_lang.setter
    def src_lang(self, language: str) -> None:
        self.codec.folder.check_language(language)
        self._src_lang = language

    @property
    def tgt_lang(self) -> str:
        """Language to translate into."""
        return self._tgt_lang

    @tgt_lang.setter
    def tgt_lang(self, language: str) -> None:
        self.codec.folder.check_language(language)
        self._tgt_lang = language

    # --- vocabulary ---

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary."""
        return len(self.codec.dictionary)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""
        return {symbol: number for number, symbol in enumerate(self.codec.dictionary.symbols)}

    def _convert_token_to_id(self, token: str) -> int:
        return int(self.codec.dictionary.index(token))

    def _convert_id_to_token(self, index: int) -> str:
        return str(self.codec.dictionary[index])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Copy the files, bit for bit; they have no prefix, since each is found by its name."""
        copies = [Path(save_directory) / name for name in FROM_DATA_FOLDER]
        for copy in copies:
            original = self.codec.folder.path / copy.name
            if copy.resolve() != original.resolve():
                shutil.copyfile(original, copy)
        return tuple(map(str, copies))

    # --- text to ids ---

    def tokenize(self, text: str, **_: Any) -> list[str]:
        """The pieces of raw text."""
        return self.codec.symbols(text)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """A source has the target's tag in front; sources and targets end with </s>. UserError for a pair of texts."""
        if token_ids_1 is not None:
            raise UserError("a model of smoe_mt reads one text; give target texts as text_target")
        tag = [] if self._target_mode else [self.codec.tag(self.tgt_lang)]
        return [*tag, *token_ids_0, self.codec.dictionary.eos()]

    def _switch_to_input_mode(self) -> None:
        self._target_mode = False

    def _switch_to_target_mode(self) -> None:
        self._target_mode = True

    def _build_translation_inputs(
        self, raw_inputs: Any, return_tensors: str, src_lang: str | None, tgt_lang: str | None, **kwargs: Any
    ) -> Any:
        """What the pipeline "translation" asks tokenizers for."""
        self.src_lang, self.tgt_lang = src_lang or self.src_lang, tgt_lang or self.tgt_lang
        return self(raw_inputs, return_tensors=return_tensors, **kwargs)

    # --- ids to text ---

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of pieces."""
        return str(self.codec.spm.decode_pieces(tokens))

    def _decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        """Without special tokens as `smoe-mt translate` prints it: padding, ends and tags go, what is unknown stays visible."""
        if not skip_special_tokens:
            return super()._decode(token_ids, skip_special_tokens=False, **kwargs)
        return self.codec.text([token_ids] if isinstance(token_ids, int) else map(int, token_ids))
