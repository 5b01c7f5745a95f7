"""A model of smoe_mt as transformers knows encoder-decoders: it holds the encoder and the decoder, and calls them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import GenerationMixin, LogitsProcessorList, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from smoe_mt.checkpoints.exported import check_weights, fingerprint
from smoe_mt.checkpoints.names import BUFFERS_OF_GATES, REMEDY, WEIGHTS
from smoe_mt.checkpoints.schema import tied_tensors
from smoe_mt.checkpoints.sizes import fewest_parameters
from smoe_mt.checksums import sealed
from smoe_mt.criterions.stratified_routing import LOSS_SETTINGS, StratifiedRoutingCriterion
from smoe_mt.errors import UserError, first_sentence
from smoe_mt.hf.configuration import SMoEConfig
from smoe_mt.hf.limits import OwnLimit
from smoe_mt.hf.state import CACHE, DecoderState
from smoe_mt.models import SMoETransformerModel
from smoe_mt.models.standalone import build_standalone
from smoe_mt.search.beam import Decoding

IGNORED = -100  # a label that counts for nothing
UNKNOWN = ("inputs_embeds", "decoder_inputs_embeds", "output_attentions", "output_hidden_states")


class EncoderOfGeneration(nn.Module):
    """The encoder with transformers' arguments, for `generate`."""

    main_input_name = "input_ids"

    def __init__(self, encoder: nn.Module, pad: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.pad = pad

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> BaseModelOutput:
        """input_ids [B, S], attention_mask [B, S], 0 at padding -> last_hidden_state [B, S, D]."""
        tokens = masked(input_ids, attention_mask, self.pad)
        return BaseModelOutput(last_hidden_state=self.encoder(tokens)["encoder_out"][0].transpose(0, 1))


class SMoEForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A model of any system of smoe_mt.

    In training the loss has the routing's own losses (balance, ...) in it, with the weights that the model was trained with.
    """

    config_class = SMoEConfig
    main_input_name = "input_ids"
    _keep_in_fp32_modules_strict = tuple(name.removeprefix(".") for name in BUFFERS_OF_GATES)

    def __init__(self, config: SMoEConfig) -> None:
        super().__init__(config)
        settings = config.settings()
        _check_size(settings["model"], config)
        # transformers builds models without memory, on "meta", and fills in what a file has; constants are in no file.
        with torch.device("cpu"):
            built = build_standalone(OmegaConf.create(settings["model"]), config.vocab_size)
            built.to(dtype=torch.get_default_dtype())
        self.encoder, self.decoder = built.encoder, built.decoder
        self.encoder.main_input_name = self.main_input_name  # `generate` looks for it there
        # Not one of its modules: all of its weights are those of the two above.
        object.__setattr__(self, "smoe", built)
        self._routing = _criterion(settings["criterion"], built)
        self._constants = {
            (module, name): getattr(module, name).clone()
            for module in self.modules()
            for name in module._non_persistent_buffers_set
        }
        self._tied_weights_keys = tied_tensors(self.state_dict())
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Puts constants back, for which loading leaves memory as it finds it. fairseq has drawn the weights already."""
        for name in module._non_persistent_buffers_set:
            buffer = getattr(module, name)
            setattr(module, name, self._constants[module, name].to(buffer.device, buffer.dtype))

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As transformers'. UserError for a damaged file, and for one that lacks a weight."""
        if name is not None:  # weights from a file
            check_weights(Path(name))
        try:
            model, info = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            raise UserError(f"{name}: {WEIGHTS}: {first_sentence(error)}; {REMEDY}") from error
        for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
            if found := info.get(problem):
                raise UserError(
                    f"{name}: {problem.replace('_', ' ')} in its weights, such as {min(map(str, found))}; {REMEDY}"
                )
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As transformers'; with a tokenizer saved beside it, `smoe-mt translate` reads the folder as well."""
        super().save_pretrained(save_directory, *args, **kwargs)
        weights = Path(save_directory) / WEIGHTS
        if weights.is_file() and self.config.smoe_mt:
            record = self.config.smoe_mt
            files = {**record.get("files", {}), WEIGHTS: fingerprint(weights)}
            self.config.smoe_mt = sealed({**record, "files": files, "tied": self._tied_weights_keys})
            self.config.save_pretrained(save_directory)

    def get_input_embeddings(self) -> nn.Module:
        """Of the encoder; the decoder's and the output's too where they are shared."""
        return self.encoder.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        """The projection to logits."""
        return self.decoder.output_projection

    def get_encoder(self, *_: Any, **__: Any) -> nn.Module:
        """What `generate` calls first."""
        return EncoderOfGeneration(self.encoder, self.config.pad_token_id)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Labels [B, T] one place later, after the start of a sentence."""
        shifted = labels.roll(1, dims=1)
        shifted[:, 0] = self.config.decoder_start_token_id
        return shifted.masked_fill(shifted == IGNORED, self.config.pad_token_id)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """input_ids [B, S] and labels or decoder_input_ids [B, T] -> Seq2SeqLMOutput with logits [B, T, V].

        The loss is the mean over labels that are not -100; in training plus the losses of the routing. With a cache,
        `decoder_input_ids` are the tokens that it does not know yet. UserError for what transformers' models may take and this
        one does not.
        """
        state = kwargs.pop(CACHE, None)
        for name in UNKNOWN:
            if kwargs.get(name) is not None and kwargs[name] is not False:
                raise UserError(f"{name}: models of smoe_mt do not have it; leave it out")
        if decoder_input_ids is None:
            if labels is None:
                raise UserError("give labels or decoder_input_ids, what the decoder is to read")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        previous = masked(decoder_input_ids, decoder_attention_mask, self.config.pad_token_id)
        if state is None and use_cache:
            state = DecoderState(self.decoder)
        blocks: list[Any] = []
        if encoder_outputs is None and state is None:
            if input_ids is None:
                raise UserError("give input_ids, the source")
            self.smoe.training = self.training
            tokens = masked(input_ids, attention_mask, self.config.pad_token_id)
            logits, extra = self.smoe(tokens, None, previous)
            blocks = [*extra["encoder_routing"], *extra["decoder_routing"]]
            hidden = None
        else:
            if encoder_outputs is None:
                encoder_outputs = self.get_encoder()(input_ids, attention_mask)
            hidden = encoder_outputs[0]
            encoded = _encoded(hidden, attention_mask)
            logits = (
                self.decoder(previous, encoder_out=encoded)[0] if state is None else _steps(state, previous, encoded)
            )
        loss = None if labels is None else self._loss(logits, labels, blocks)
        output = Seq2SeqLMOutput(loss=loss, logits=logits, encoder_last_hidden_state=hidden, **{CACHE: state})
        return output.to_tuple() if return_dict is False else output

    def _loss(self, logits: Tensor, labels: Tensor, blocks: list[Any]) -> Tensor:
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.to(logits.device).flatten(), ignore_index=IGNORED)
        if self.training and blocks and self._routing is not None:
            loss = loss + self._routing.routing_loss(self.smoe, blocks)
        return loss

    # --- generation ---

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of the next step: of `input_ids`, the output so far, what the cache does not know."""
        state = kwargs.get(CACHE)
        known = 0 if state is None else state.get_seq_length()
        return {
            "decoder_input_ids": input_ids[:, known:],
            "attention_mask": attention_mask,
            "encoder_outputs": encoder_outputs,
            "use_cache": use_cache,
            CACHE: state,
        }

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *_: Any) -> None:
        if generation_config.use_cache is not False:
            model_kwargs.setdefault(CACHE, DecoderState(self.decoder))

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        logits_processor: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As transformers'. Each sentence has the longest output that `smoe-mt translate` gives it, unless `max_length` or
        `max_new_tokens` is shorter.
        """
        source = inputs if inputs is not None else kwargs.get("input_ids")
        if source is not None:
            tokens = masked(source, kwargs.get("attention_mask"), self.config.pad_token_id)
            longest = int(self.decoder.max_positions()) - 1
            lengths = (tokens != self.config.pad_token_id).sum(dim=1).tolist()
            limits = torch.tensor([min(Decoding().limit(length), longest) for length in lengths])
            own = OwnLimit(limits, self.config.eos_token_id)
            logits_processor = LogitsProcessorList([*(logits_processor or ()), own])
            bounds = ("max_length", "max_new_tokens")
            given = [bound for name in bounds for bound in (kwargs.get(name), getattr(generation_config, name, None))]
            if all(bound is None for bound in given):
                kwargs["max_new_tokens"] = int(limits.max()) + 1
        return super().generate(inputs, generation_config, logits_processor, **kwargs)


def masked(tokens: Tensor, attention_mask: Tensor | None, pad: int) -> Tensor:
    """Tokens [B, S] with padding where the mask [B, S] has 0; fairseq's modules tell padding by the token."""
    return tokens if attention_mask is None else tokens.masked_fill(attention_mask == 0, pad)


def _check_size(model: dict[str, Any], config: SMoEConfig) -> None:
    """UserError for settings of a larger model than its file can hold, before memory is allocated for it."""
    weights = Path(config.name_or_path) / WEIGHTS
    if config.name_or_path and weights.is_file():
        fewest = fewest_parameters(model, weights) + config.vocab_size * int(model["encoder_embed_dim"])
        if fewest > weights.stat().st_size:
            raise UserError(
                f"{weights}: config.json describes a model of at least {fewest:,} parameters, and this file has "
                f"{weights.stat().st_size:,} bytes; {REMEDY}"
            )


def _criterion(settings: dict[str, Any] | None, model: SMoETransformerModel) -> StratifiedRoutingCriterion | None:
    """What weighs the losses of routing as the training did; None for a model without experts, or trained without them."""
    if model.system is None or settings is None or settings.get("_name") != "stratified_routing":
        return None
    task = SimpleNamespace(target_dictionary=model.decoder.dictionary, directions=())
    losses = {name: settings[name] for name in LOSS_SETTINGS if name in settings}
    criterion = StratifiedRoutingCriterion(task, sentence_avg=False, label_smoothing=0.0, **losses)  # type: ignore[arg-type]
    criterion.request_losses(model)
    return criterion


def _encoded(hidden_BSD: Tensor, attention_mask: Tensor | None) -> dict[str, list[Any]]:
    """An encoder's output in fairseq's form."""
    padding = (
        hidden_BSD.new_zeros(hidden_BSD.shape[:2], dtype=torch.bool) if attention_mask is None else attention_mask == 0
    )
    return {
        "encoder_out": [hidden_BSD.transpose(0, 1)],
        "encoder_padding_mask": [padding],
        "encoder_embedding": [],
        "encoder_states": [],
        "src_tokens": [],
        "src_lengths": [],
    }


def _steps(state: DecoderState, tokens_BT: Tensor, encoded: dict[str, list[Any]]) -> Tensor:
    """Logits [B, T, V] of tokens that the state does not know, one step for each: fairseq's decoder takes one at a time."""
    found = []
    for place in range(tokens_BT.size(1)):
        state.length += 1
        # Of the tokens before the last one the decoder reads the number alone.
        so_far = tokens_BT[:, place : place + 1].expand(-1, state.length)
        found.append(state.decoder(so_far, encoder_out=encoded, incremental_state=state.states)[0])
    return torch.cat(found, dim=1)
