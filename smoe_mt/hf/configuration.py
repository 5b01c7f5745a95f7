"""What transformers calls the configuration of a model: config.json of an exported folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from smoe_mt.checkpoints.names import RECORD
from smoe_mt.checkpoints.settings import model_and_criterion
from smoe_mt.errors import UserError


class SMoEConfig(PreTrainedConfig):
    """The settings of a model, and under ``smoe_mt`` the record that `smoe-mt export` wrote of it.

    The sizes are there for others to read; the model is built from the record.
    """

    model_type = "smoe_mt"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values"]

    vocab_size: int = 8
    d_model: int = 512
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_attention_heads: int = 8
    decoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_ffn_dim: int = 2048
    max_position_embeddings: int = 1024
    moe: str = "none"
    bos_token_id: int | None = 0
    pad_token_id: int | None = 1
    eos_token_id: int | None = 2
    decoder_start_token_id: int | None = 2
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    smoe_mt: dict[str, Any] | None = None

    def settings(self) -> dict[str, Any]:
        """The sections `model` and `criterion` of the record, checked. UserError where there is none, or for hostile ones."""
        record = self.smoe_mt
        if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
            raise UserError(
                f"{self.name_or_path or 'config.json'}: it has no settings of smoe_mt ({RECORD}.config); give a folder that "
                "`smoe-mt export --format huggingface` wrote"
            )
        return model_and_criterion(record["config"], Path(self.name_or_path or "config.json"))
