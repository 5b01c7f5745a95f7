"""fairseq task `many_to_many_translation`: one model for all directions of a data folder.

The target language is a tag `<2xxx>` in front of the source; the decoder starts with </s> and no tag.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.tasks import FairseqTask, register_task
from torch import Tensor, distributed

from smoe_mt.errors import UserError
from smoe_mt.language_codes import canonical, direction_name
from smoe_mt.moe.distributed.expert_parallel import serve
from smoe_mt.moe.distributed.placement import ExpertRanks, expert_mesh
from smoe_mt.moe.routers import forget_passes
from smoe_mt.process_group import by_one_process
from smoe_mt.search.beam import BeamDecoder, Decoding
from smoe_mt.search.steps import scorer_of
from smoe_mt.tasks.batches import limits_from_fairseq
from smoe_mt.tasks.codec import Codec
from smoe_mt.tasks.collate import Sentence, Special, collate
from smoe_mt.tasks.config import ManyToManyTranslationConfig
from smoe_mt.tasks.data_folder import DataFolder, split_direction
from smoe_mt.tasks.dataset import DirectionText, ManyToManyDataset, Sampling
from smoe_mt.tasks.pieces import FolderPieces
from smoe_mt.tasks.report import sampling_table, validation_table
from smoe_mt.tasks.resumable import ResumableBatches
from smoe_mt.tasks.token_file import TokenFile
from smoe_mt.tasks.validation_bleu import LOG_KEY, DirectionBleu
from smoe_mt.tasks.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

VOCABULARY_KEY = "vocabulary"


@register_task("many_to_many_translation", dataclass=ManyToManyTranslationConfig)
class ManyToManyTranslationTask(FairseqTask):
    """Translation between all languages of a data folder."""

    def __init__(self, cfg: ManyToManyTranslationConfig, folder: DataFolder, dictionary: Dictionary) -> None:
        super().__init__(cfg)
        self.folder = folder
        self.dictionary = dictionary
        self.codec = Codec(folder, dictionary)
        self.expert_ranks: ExpertRanks | None = None
        #: The directions in use; `sample["direction"]` holds places in this tuple.
        self.directions: tuple[str, ...] = chosen_directions(cfg, folder)
        self.special = Special(pad=dictionary.pad(), eos=dictionary.eos())
        self.vocabulary = Vocabulary.of(dictionary, folder.path.resolve().name)
        #: Computes forward and backward pass of a batch in place of the task, told how the task does; a trainer sets it.
        self.graphs: Callable[..., tuple[Any, Any, dict[str, Any]]] | None = None

    @classmethod
    def setup_task(cls, cfg: Any, **_: Any) -> ManyToManyTranslationTask:
        """Open the data folder. UserError for one that is not whole, or settings that it cannot serve."""
        ManyToManyTranslationConfig.check(cfg)
        folder = DataFolder.open(cfg.data)
        if cfg.verify:
            by_one_process(folder.verify_anew, of_each_machine=True)
        return cls(cfg, folder, folder.dictionary())

    @property
    def source_dictionary(self) -> Dictionary:
        """The joint dictionary."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """The joint dictionary."""
        return self.dictionary

    def max_positions(self) -> tuple[int, int]:
        """Longest source and target, in tokens."""
        return self.cfg.max_source_positions, self.cfg.max_target_positions

    def has_sharded_data(self, split: str) -> bool:
        """Never: a data folder is one path, even where it has a colon in it."""
        return False

    # --- text and tokens ---

    @property
    def spm(self) -> Any:
        """The SentencePiece model of the data folder. UserError for a damaged one."""
        return self.codec.spm

    def tag(self, language: str) -> int:
        """Token id that asks for a translation into `language`. UserError for an unknown language."""
        return self.codec.tag(language)

    def encode(self, text: str, target_lang: str) -> Tensor:
        """int64[tokens] of a raw sentence: the tag of `target_lang`, its pieces, </s>."""
        return torch.tensor([self.tag(target_lang), *self.codec.pieces(text), self.dictionary.eos()])

    def encode_prefix(self, text: str) -> Tensor:
        """int64[tokens] of the beginning of a raw target sentence: its pieces alone."""
        return torch.tensor(self.codec.pieces(text), dtype=torch.long)

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """Raw text of token ids, on one line; padding, </s> and tags leave no trace."""
        return self.codec.text(tokens.tolist() if isinstance(tokens, Tensor) else tokens)

    def build_bpe(self, args: Any) -> Any:
        """For fairseq's command lines: the data folder's SentencePiece model, unless --bpe asks for another."""
        return super().build_bpe(args) or FolderPieces(self.spm)

    def collate(
        self, sources: Sequence[Tensor], targets: Sequence[Tensor] | None = None, direction: str | None = None
    ) -> dict[str, Any]:
        """A sample of sentences that are not in the data folder.

        `sources` as `encode` makes them (tag and </s> included); `targets` int64[tokens] with </s>; without them, the
        sample's targets are empty sentences and of no use. `direction` (default: the task's first) fills `direction`.
        """
        number = self.directions.index(direction) if direction is not None else 0
        empty = np.array([self.special.eos])
        return collate(
            [
                Sentence(
                    i, number, int(source[0]), source[1:].numpy(), empty if targets is None else targets[i].numpy()
                )
                for i, source in enumerate(sources)
            ],
            self.special,
        )

    # --- datasets and batches ---

    def load_dataset(self, split: str, combine: bool = False, **_: Any) -> None:
        """Map the files of a split, of all directions in use that have text in it."""
        self.folder.check_split(split)
        directions = [name for name in self.directions if self.folder.has(split, name)]
        if not directions:
            raise UserError(
                f"none of {', '.join(self.directions)} has text in the subset {split!r} of {self.folder.path}"
            )
        self.folder.verify_text(split, directions)
        training = split == self.cfg.train_subset
        files: dict[Path, TokenFile] = {}
        texts = [self._direction_text(split, name, files, with_references=not training) for name in directions]
        sampling = None
        if training:
            sampling = Sampling(self.cfg.sampling_temperature, self.cfg.epoch_pairs, self.cfg.seed)
        self.dataset_to_epoch_iter.pop(self.datasets.get(split), None)
        self.datasets[split] = dataset = ManyToManyDataset(texts, self.special, sampling)
        logger.info(sampling_table(split, dataset))

    def _direction_text(
        self, split: str, direction: str, files: dict[Path, TokenFile], with_references: bool
    ) -> DirectionText:
        source, target = split_direction(direction)
        for language in (source, target):
            prefix = self.folder.prefix(split, direction, language)
            if prefix not in files:
                files[prefix] = self.folder.open_text(split, direction, language)
        references: Sequence[str] = ()
        if with_references and self.cfg.eval_bleu:
            references = self.folder.references(split, direction)[: self.cfg.eval_bleu_sentences or None]
        return DirectionText(
            name=direction,
            number=self.directions.index(direction),
            tag=self.tag(target),
            source=files[self.folder.prefix(split, direction, source)],
            target=files[self.folder.prefix(split, direction, target)],
            references=references,
        )

    def build_dataset_for_inference(
        self, src_tokens: Sequence[Tensor], src_lengths: Sequence[int], constraints: Any = None, **_: Any
    ) -> LanguagePairDataset:
        """For fairseq-interactive: the sentences with the tag of --target-lang in front. UserError without it."""
        if self.cfg.target_lang is None:
            raise UserError("which direction? give --source-lang and --target-lang, as in -s nso -t en")
        tag = torch.tensor([self.tag(self.cfg.target_lang)])
        return LanguagePairDataset(
            [torch.cat([tag, tokens]) for tokens in src_tokens],
            [length + 1 for length in src_lengths],
            self.dictionary,
            tgt_dict=self.dictionary,
            left_pad_source=False,
            constraints=constraints,
        )

    def get_batch_iterator(self, dataset: Any, **settings: Any) -> Any:
        """Batches of one of the task's datasets: see `ResumableBatches`. Settings as in fairseq."""
        if not isinstance(dataset, ManyToManyDataset):
            return super().get_batch_iterator(dataset, **settings)
        if dataset not in self.dataset_to_epoch_iter or settings.get("disable_iterator_cache"):
            limits = limits_from_fairseq(settings, skip_long=dataset.sampling is not None)
            # Of what fairseq iterates over, a training's sentences alone may be shuffled in groups.
            if self.cfg.batch_shapes and dataset.sampling is not None and "grouped_shuffling" in settings:
                limits = limits.with_shapes(dataset, self.cfg.batch_shapes)
            dataset.shapes = limits.shapes
            self.dataset_to_epoch_iter[dataset] = ResumableBatches(
                dataset,
                limits.batches,
                seed=settings.get("seed", 1),
                num_shards=settings.get("num_shards", 1),
                shard_id=settings.get("shard_id", 0),
                num_workers=settings.get("num_workers", 0),
                epoch=settings.get("epoch", 1),
                buffer_size=settings.get("data_buffer_size", 0),
                skip_remainder_batch=settings.get("skip_remainder_batch", False),
                grouped_shuffling=settings.get("grouped_shuffling", False),
            )
        return self.dataset_to_epoch_iter[dataset]

    # --- training and validation ---

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, Any, dict[str, Any]]:
        """As fairseq's; a sample that only stands in for a missing batch (`ignore_grad`) counts for nothing."""
        eager = partial(
            super().train_step, sample, model, criterion, optimizer, update_num, ignore_grad=ignore_grad, **kwargs
        )
        if not ignore_grad:
            if self.graphs is None:
                return eager()
            return self.graphs(eager, sample, model, criterion, optimizer, update_num)
        loss, size, log = eager()
        forget_passes(model)  # such samples are the first ones of an update
        return loss, size * 0, {key: value * 0 for key, value in log.items()}

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """The model; where validation translates, also what counts its BLEU."""
        self.expert_ranks = self._expert_ranks()
        model = super().build_model(cfg, from_checkpoint)
        if self.cfg.eval_bleu:
            self._bleu = DirectionBleu(self.directions, self.cfg.eval_bleu_tokenizer)
        return model

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """As fairseq's. UserError where a checkpoint was trained with a criterion that is not taken from a file."""
        if cfg is None:
            raise UserError(
                "the checkpoint's criterion is unknown to smoe_mt, and none is built by a name in a file; validate in training "
                "(checkpoint.finetune_from_model), or measure with `smoe-mt evaluate`"
            )
        return super().build_criterion(cfg, from_checkpoint)

    def _expert_ranks(self) -> ExpertRanks | None:
        """The ranks that share the next model's experts. UserError where there are none to share them."""
        size = self.cfg.expert_parallel_size
        if size == 1:
            return None
        if not distributed.is_initialized():
            raise UserError(
                f"--expert-parallel-size {size} needs as many ranks: start them with torchrun --nproc-per-node {size} (to "
                "translate with such a model, `smoe-mt evaluate`; fairseq-generate has all experts in one process)"
            )
        try:
            mesh = expert_mesh(size, "cuda" if "nccl" in distributed.get_backend_config() else "cpu")
        except ValueError as error:
            raise UserError(f"--expert-parallel-size {size}: {error}") from error
        return ExpertRanks(mesh, self.cfg.expert_parallel_chunks)

    def serve_other_ranks(self) -> None:
        """Where ranks share experts: compute for those that still translate; returns on all of them at once."""
        if self.expert_ranks is not None:
            serve(self.expert_ranks)

    def valid_step(self, sample: dict[str, Any], model: Any, criterion: Any) -> tuple[Any, Any, dict[str, Any]]:
        """The criterion's losses; with --eval-bleu also the statistics of the sample's translations."""
        loss, sample_size, logging_output = super().valid_step(sample, model, criterion)
        if self.cfg.eval_bleu:
            logging_output[LOG_KEY] = self._translation_statistics(sample, model)
            self.serve_other_ranks()  # they take different numbers of steps
        return loss, sample_size, logging_output

    def _translation_statistics(self, sample: dict[str, Any], model: Any) -> Tensor:
        """float64[directions, statistics], zeros for a sample without references."""
        references = sample.get("references", [])
        rows = [row for row, reference in enumerate(references) if reference is not None]
        outputs = []
        if rows:
            decoding = Decoding(
                self.cfg.eval_bleu_beam,
                max_len_a=self.cfg.eval_bleu_max_len_a,
                max_len_b=self.cfg.eval_bleu_max_len_b,
            )
            search = BeamDecoder(scorer_of(model), self.dictionary, decoding)
            sources, lengths = (sample["net_input"][name] for name in ("src_tokens", "src_lengths"))
            best = search([sources[row, : lengths[row]].cpu() for row in rows])
            outputs = [self.decode(hypotheses[0].tokens) for hypotheses in best]
        directions = sample["direction"].tolist()
        return self._bleu.statistics([directions[row] for row in rows], outputs, [references[row] for row in rows])

    def reduce_metrics(self, logging_outputs: Sequence[dict[str, Any]], criterion: Any) -> None:
        """The criterion's metrics; with --eval-bleu also `bleu` (mean over directions) and `bleu/nso-en`."""
        super().reduce_metrics(logging_outputs, criterion)
        found = [log[LOG_KEY] for log in logging_outputs if LOG_KEY in log]
        if found:
            self._bleu.log(found)

    def post_validate(self, model: Any, stats: dict[str, Any], agg: Any) -> None:
        """Called by fairseq after each validation: what was measured per direction, as one log entry."""
        table = validation_table(stats, self.directions)
        if table:
            logger.info(table)

    # --- checkpoints ---

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the task: the fingerprint of its vocabulary."""
        return {**super().state_dict(), VOCABULARY_KEY: self.vocabulary.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """UserError where the checkpoint is of another vocabulary than the data folder."""
        state = dict(state_dict)
        vocabulary = state.pop(VOCABULARY_KEY, None)
        if vocabulary is not None:
            self.vocabulary.check(vocabulary)
        super().load_state_dict(state)


def chosen_directions(cfg: ManyToManyTranslationConfig, folder: DataFolder) -> tuple[str, ...]:
    """The directions that the settings ask for; UserError, naming the known ones, for one that the folder lacks."""
    if cfg.source_lang is not None:
        names = [f"{canonical(cfg.source_lang)}-{canonical(str(cfg.target_lang))}"]
    elif cfg.directions:
        names = [direction_name(name.strip()) for name in cfg.directions.split(",") if name.strip()]
    else:
        return folder.directions
    for name in names:
        folder.check_direction(name)
    return tuple(dict.fromkeys(names))
