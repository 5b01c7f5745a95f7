"""The table of config keys, ours and fairseq's, with the values that each accepts.

A flag of fairseq-train is called as the last part of its key: ``dataset.max_tokens`` is ``--max-tokens``. Bounds are wide: beyond
them no training makes sense, or fairseq or torch would fail during it.
"""

from __future__ import annotations

from collections.abc import Mapping

from smoe_mt import ranges
from smoe_mt.allowed.kinds import (
    Choice,
    Either,
    Experts,
    Flag,
    Kind,
    Maybe,
    Only,
    Path,
    Real,
    Several,
    Table,
    Text,
    Whole,
    real,
    whole,
)

UPDATES = Whole(0, 10**9)
OFF_OR_UPDATES = Whole(-1, 10**9)  # -1: not at all
SHARE = Real(0, 1)
RATE = Real(0, 1e3)
TOKENS = Whole(1, 10**9)
PATH = Path()

NOT_HERE = "it needs what is no part of this installation"
NAME = Text()
LETTERS = Text(empty=True)
PATH_OR_NONE = Path(empty=True)
SCHEDULERS = (
    "cosine",
    "fixed",
    "inverse_sqrt",
    "polynomial_decay",
    "reduce_lr_on_plateau",
    "step",
    "tri_stage",
    "triangular",
)

COMMON: Mapping[str, Kind] = {
    "no_progress_bar": Flag(),
    "log_interval": Whole(1, 10**9),
    "log_format": Maybe(Choice(("json", "none", "simple", "tqdm"))),
    "log_file": Maybe(PATH),
    "aim_repo": Maybe(NAME),
    "aim_run_hash": Maybe(NAME),
    "tensorboard_logdir": Maybe(PATH_OR_NONE),
    "wandb_project": Maybe(LETTERS),
    "azureml_logging": Maybe(Only(False, NOT_HERE)),
    "seed": Whole(0, 2**31 - 1),
    "cpu": Flag(),
    "tpu": Flag(),
    "bf16": Flag(),
    "memory_efficient_bf16": Flag(),
    "fp16": Flag(),
    "memory_efficient_fp16": Flag(),
    "fp16_no_flatten_grads": Flag(),
    "fp16_init_scale": Whole(1, 2**24),
    "fp16_scale_window": Maybe(Whole(1, 10**9)),
    "fp16_scale_tolerance": SHARE,
    "on_cpu_convert_precision": Flag(),
    "min_loss_scale": Real(0, 2**24),
    "threshold_loss_scale": Maybe(Real(0, 2**24)),
    "amp": Flag(),
    "amp_batch_retries": Whole(1, 1000),
    "amp_init_scale": Whole(1, 2**24),
    "amp_scale_window": Maybe(Whole(1, 10**9)),
    "user_dir": Maybe(PATH),
    "empty_cache_freq": Whole(0, 10**9),
    "all_gather_list_size": Whole(1024, 2**30),
    "model_parallel_size": Only(1, "experts are spread by task.expert_parallel_size"),
    "quantization_config_path": Only(None, NOT_HERE),
    "profile": Flag(),
    "reset_logging": Flag(),
    "suppress_crashes": Only(False, "a training that fails says so and ends"),
    "use_plasma_view": Only(False, NOT_HERE),
    "plasma_path": Maybe(PATH),
}

OPTIMIZATION: Mapping[str, Kind] = {
    "max_epoch": Whole(0, 10**9),
    "max_update": UPDATES,
    "stop_time_hours": Real(0, 1e6),
    "clip_norm": Real(0, 1e9),
    "sentence_avg": Flag(),
    "update_freq": Several(Whole(1, 10**6)),
    "lr": Several(RATE),
    "stop_min_lr": Real(-1, 1e3),
    "use_bmuf": Only(False, NOT_HERE),
    "skip_remainder_batch": Maybe(Flag()),
    "debug_param_names": Flag(),
}

CHECKPOINT: Mapping[str, Kind] = {
    "save_dir": PATH,
    "restore_file": PATH,
    "continue_once": Maybe(PATH),
    "finetune_from_model": Maybe(PATH_OR_NONE),
    "reset_dataloader": Flag(),
    "reset_lr_scheduler": Flag(),
    "reset_meters": Flag(),
    "reset_optimizer": Flag(),
    "optimizer_overrides": Table(),
    "save_interval": Whole(1, 10**9),
    "save_interval_updates": UPDATES,
    "keep_interval_updates": OFF_OR_UPDATES,
    "keep_interval_updates_pattern": OFF_OR_UPDATES,
    "keep_last_epochs": OFF_OR_UPDATES,
    "keep_best_checkpoints": OFF_OR_UPDATES,
    "no_save": Flag(),
    "no_epoch_checkpoints": Flag(),
    "no_last_checkpoints": Flag(),
    "no_save_optimizer_state": Flag(),
    "best_checkpoint_metric": NAME,
    "maximize_best_checkpoint_metric": Flag(),
    "patience": OFF_OR_UPDATES,
    "checkpoint_suffix": LETTERS,
    "checkpoint_shard_count": Only(1, "large checkpoints are task.sharded_checkpoints=true"),
    "load_checkpoint_on_all_dp_ranks": Flag(),
    "write_checkpoints_asynchronously": Only(False, "a run killed meanwhile would leave half a checkpoint"),
    "model_parallel_size": Only(1, "experts are spread by task.expert_parallel_size"),
}

DATASET: Mapping[str, Kind] = {
    "num_workers": Whole(0, 1024),
    "skip_invalid_size_inputs_valid_test": Flag(),
    "max_tokens": Maybe(TOKENS),
    "batch_size": Maybe(Whole(1, 10**7)),
    "required_batch_size_multiple": Whole(1, 10**6),
    "required_seq_len_multiple": Whole(1, 10**5),
    "dataset_impl": Maybe(Choice(("mmap",))),
    "data_buffer_size": Whole(0, 10**6),
    "train_subset": NAME,
    "valid_subset": NAME,
    "combine_valid_subsets": Maybe(Flag()),
    "ignore_unused_valid_subsets": Maybe(Flag()),
    "validate_interval": Whole(1, 10**9),
    "validate_interval_updates": UPDATES,
    "validate_after_updates": UPDATES,
    "fixed_validation_seed": Maybe(Whole(0, 2**31 - 1)),
    "disable_validation": Flag(),
    "max_tokens_valid": Maybe(TOKENS),
    "batch_size_valid": Maybe(Whole(1, 10**7)),
    "max_valid_steps": Maybe(Whole(1, 10**9)),
    "curriculum": Whole(0, 10**9),
    "gen_subset": NAME,
    "num_shards": Whole(1, 10**6),
    "shard_id": Whole(0, 10**6),
    "grouped_shuffling": Flag(),
    "update_epoch_batch_itr": Flag(),
    "update_ordered_indices_seed": Flag(),
}

RANKS: Mapping[str, Kind] = {
    "distributed_world_size": Whole(1, 2**16),
    "distributed_num_procs": Maybe(Whole(1, 2**16)),
    "distributed_rank": Maybe(Whole(0, 2**16)),
    "distributed_backend": Choice(("nccl", "gloo")),
    "distributed_init_method": Maybe(NAME),
    "distributed_port": Whole(-1, 65535),
    "device_id": Whole(0, 1024),
    "distributed_no_spawn": Flag(),
    "ddp_backend": NAME,
    "ddp_comm_hook": Choice(("none", "fp16")),
    "bucket_cap_mb": Whole(1, 10**5),
    "fix_batches_to_gpus": Flag(),
    "find_unused_parameters": Flag(),
    "gradient_as_bucket_view": Flag(),
    "fast_stat_sync": Flag(),
    "heartbeat_timeout": Whole(-1, 10**7),
    "broadcast_buffers": Flag(),
    "slowmo_momentum": Maybe(SHARE),
    "slowmo_base_algorithm": NAME,
    "localsgd_frequency": Whole(1, 10**6),
    "nprocs_per_node": Whole(1, 1024),
    "pipeline_model_parallel": Only(False, NOT_HERE),
    "zero_sharding": NAME,
    "fp16": Flag(),
    "memory_efficient_fp16": Flag(),
    "tpu": Flag(),
    "cpu_offload": Only(False, NOT_HERE),
    "use_sharded_state": Only(False, "large checkpoints are task.sharded_checkpoints=true"),
}

OPTIMIZER: Mapping[str, Kind] = {
    "adam_betas": Several(Real(0, 1, below=True), most=2, least=2),
    "adam_eps": Real(0, 1, above=True),
    "weight_decay": Real(0, 1e3),
    "momentum": Real(0, 1, below=True),
    "use_old_adam": Flag(),
    "fp16_adam_stats": Only(False, NOT_HERE),
    "expert_lr_scale": Real(0, 1e6),
    "tpu": Flag(),
}

SCHEDULE: Mapping[str, Kind] = {
    "warmup_updates": UPDATES,
    "warmup_init_lr": Real(-1, 1e3),  # -1: 0, or the peak where there is no warm-up
    "min_lr": RATE,
    "max_lr": RATE,
    "t_mult": Real(1, 1e3),
    "lr_period_updates": Real(-1, 1e9),
    "lr_shrink": Real(0, 1, above=True),
    "shrink_min": Flag(),
    "force_anneal": Maybe(Whole(0, 10**9)),
    "end_learning_rate": RATE,
    "power": Real(0, 100, above=True),
    "total_num_update": Real(0, 1e9),  # 0: where max_update is 0, see `validation.check_end`
    "lr_threshold": Real(0, 1e3),
    "lr_patience": Whole(0, 10**6),
    "maximize_best_checkpoint_metric": Flag(),
    "lr_deacy_period": Whole(1, 10**9),  # fairseq's spelling
    "lr_decay": Real(0, 1, above=True),
    "warmup_steps": UPDATES,
    "hold_steps": UPDATES,
    "decay_steps": UPDATES,
    "phase_ratio": Maybe(Several(SHARE, most=3, least=3)),
    "init_lr_scale": Real(0, 1, above=True),
    "final_lr_scale": Real(0, 1, above=True),
    "max_update": UPDATES,
}

# The ranges of our own settings are those that checkpoints are held to; `ranges` has them. Systems declare those of their own
# options; `config.check_values` asks for them.
TASK: Mapping[str, Kind] = {
    **{name: whole(allowed) for name, allowed in ranges.TASK.items()},
    "data": Maybe(PATH),
    "directions": Maybe(Either((LETTERS, Several(Text(), most=10**5)))),
    "source_lang": Maybe(Text()),
    "target_lang": Maybe(Text()),
    "sampling_temperature": real(ranges.TASK["sampling_temperature"]),
    "sharded_checkpoints": Flag(),
    "cuda_graphs": Choice(("off", "on", "auto")),
    "eval_bleu": Flag(),
    "verify": Flag(),
    "eval_bleu_max_len_a": real(ranges.TASK["eval_bleu_max_len_a"]),
    "eval_bleu_tokenizer": Text(),
    "mlflow_experiment": Maybe(LETTERS),
}

OF_REAL_NUMBERS = ("dropout", "attention_dropout", "activation_dropout", "balance_bias")
MODEL: Mapping[str, Kind] = {
    **{name: whole(allowed) for name, allowed in ranges.MODEL.items()},
    **{name: real(ranges.MODEL[name]) for name in OF_REAL_NUMBERS},
    **{name: Maybe(real(ranges.MODEL[name])) for name in ("capacity_factor", "eom_p")},
    "encoder_normalize_before": Flag(),
    "decoder_normalize_before": Flag(),
    "share_all_embeddings": Flag(),
    "strata": Experts(),
    "num_experts": Experts(),
    "variant": Choice(("paper", "release")),
    "second_choice": Choice(("argmax", "gumbel")),
    "balance_within": Choice(("gate", "stratum")),
    "activation_fn": NAME,
    "moe": NAME,
    "moe_backend": NAME,
    "moe_debug": Flag(),
    "gate_bias": Flag(),
    "init_experts_from": Maybe(PATH_OR_NONE),
    "train_only": Choice(("all", "experts")),
    "cpu_bf16": Choice(("off", "on", "auto")),
    "expert_init": Choice(("independent", "equal")),
}

CRITERION: Mapping[str, Kind] = {
    **{name: real(allowed) for name, allowed in ranges.CRITERION.items()},
    "z_weight": Maybe(real(ranges.CRITERION["z_weight"])),
    "ignore_prefix_size": whole(ranges.CRITERION["ignore_prefix_size"]),
    "report_accuracy": Flag(),
    "sentence_avg": Flag(),
}

GENERATION: Mapping[str, Kind] = {
    "beam": Whole(1, 1000),
    "nbest": Whole(1, 1000),
    "max_len_a": Real(0, 1000),
    "max_len_b": Whole(0, 10**5),
    "min_len": Whole(0, 10**5),
    "lenpen": Real(-100, 100),
    "unkpen": Real(-1e6, 1e6),
    "prefix_size": Whole(0, 10**5),
    "no_repeat_ngram_size": Whole(0, 10**5),
    "temperature": Real(0, 1e3, above=True),
    "sampling_topk": Whole(-1, 10**7),
    "sampling_topp": Real(-1, 1),
    "buffer_size": Whole(0, 10**7),
}

GROUPS: Mapping[str, Mapping[str, Kind]] = {
    "common": COMMON,
    "optimization": OPTIMIZATION,
    "checkpoint": CHECKPOINT,
    "dataset": DATASET,
    "distributed_training": RANKS,
    "optimizer": OPTIMIZER,
    "lr_scheduler": SCHEDULE,
    "task": TASK,
    "model": MODEL,
    "criterion": CRITERION,
    "generation": GENERATION,
}

KEYS: dict[str, Kind] = {f"{group}.{name}": kind for group, keys in GROUPS.items() for name, kind in keys.items()} | {
    "optimizer._name": Choice(("adadelta", "adafactor", "adagrad", "adam", "adamax", "fused_adam", "nag", "sgd")),
    "lr_scheduler._name": Choice(SCHEDULERS),
    "hydra.run.dir": PATH,
    "hydra.sweep.dir": PATH,
}
