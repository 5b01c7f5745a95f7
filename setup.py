"""Packaging of smoe_mt. configs/, scripts/ and data_prep/ stand beside the package in the repository; in a wheel the first
two travel inside it (``smoe-mt path configs``)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# Read, not imported: the package may not be importable yet.
PACKAGE = (HERE / "smoe_mt" / "__init__.py").read_text(encoding="utf-8")
(VERSION,) = re.findall(r'^__version__ = "(.+)"$', PACKAGE, re.MULTILINE)
HUB = ["huggingface_hub>=0.23"]  # fetches exported models by OWNER/NAME, and uploads them (`export --push`)
HF = ["transformers>=5"]  # `import smoe_mt.hf`: models of `export --format huggingface` in transformers
CTRANSLATE2 = ["ctranslate2>=4.3"]  # `export --format ctranslate2`: its converter
PUBLIC = ["mtdata>=0.5"]  # the index of public corpora that `prepare --corpus public` looks in
TRITON = ["triton>=3.4"]  # own GPU kernels; tests interpret them on a CPU
SENTENCES = ["sentencex>=1.0.32"]  # `translate --split-sentences`; its rules are in its wheel
SERVE = ["fastapi>=0.110", "uvicorn>=0.29", "prometheus_client>=0.20"]  # `smoe-mt serve`
COMET = ["unbabel-comet>=2.2"]  # `evaluate --metrics comet`; its models are to be had apart
WANDB = ["wandb>=0.16"]  # `common.wandb_project`
MLFLOW = [
    "mlflow-skinny>=2.9",
    "sqlalchemy>=2",
    "alembic>=1.12",
]  # `task.mlflow_experiment`, also into sqlite:///mlflow.db
ZSTD = ["zstandard>=0.22"]  # `.zst` files of text
LANGUAGE_IDENTIFICATION = [
    "py3langid>=0.4"
]  # `prepare --identify-languages`, `evaluate --metrics off_target`; its model is in its wheel

setup(
    name="smoe_mt",
    version=VERSION,
    description="Stratified mixture-of-experts translation models (SMoE), as a fairseq plugin",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.13",
    packages=[
        *find_packages(include=["smoe_mt", "smoe_mt.*", "data_prep", "data_prep.*"]),
        "smoe_mt.configs",
        "smoe_mt.configs.model",
        "smoe_mt.configs.scale",
        "smoe_mt.configs.study",
        "smoe_mt.configs.hydra.launcher",
        "smoe_mt.scripts",
    ],
    package_dir={"smoe_mt.configs": "configs", "smoe_mt.scripts": "scripts"},
    package_data={
        "smoe_mt.configs": ["*.yaml"],
        "smoe_mt.configs.model": ["*.yaml"],
        "smoe_mt.configs.scale": ["*.yaml"],
        "smoe_mt.configs.study": ["*.yaml"],
        "smoe_mt.configs.hydra.launcher": ["*.yaml"],
        "smoe_mt.scripts": [
            "environment.sh",
            "quickstart.sh",
            "study.sh",
            "systems.sh",
            "benchmark.sh",
            "m4.sh",
            "m15.sh",
            "opus100.sh",
            "slurm.sh",
        ],
        "smoe_mt.serving": ["page/*.html"],
        "smoe_mt.report": ["templates/*", "public_scores.json"],
    },
    install_requires=[
        "fairseq-fixed>=0.12.3.1",  # fairseq's main branch, made installable; imports as fairseq
        "torch>=2.6",  # loads checkpoints safely by default
        "numpy>=1.26",
        "sentencepiece>=0.2",
        "sacrebleu>=2.4",  # BLEU, chrF++ and their signatures
        "hydra-core>=1.3.2",
        "omegaconf>=2.3",
        "tensorboard>=2.15",
        "matplotlib>=3.8",  # figures of the analysis
        "tqdm>=4.66",  # progress
        "safetensors>=0.4.3",  # weights of exported models: mapped, and a file that cannot run code
        "jinja2>=3.1",  # the report's templates
        # readers of the text that `prepare --corpus l10n` takes from packages
        "polib>=1.2",
        "fluent.syntax>=0.19",
        "lxml>=5",
    ],
    extras_require={
        "hub": HUB,
        "hf": HF,
        "ctranslate2": CTRANSLATE2,
        "slurm": ["hydra-submitit-launcher>=1.2"],  # jobs of a multirun on a cluster
        "test": [
            "pytest>=8",
            "hypothesis>=6.100",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "mypy>=1.11",
            *HUB,
            *HF,
            *CTRANSLATE2,
            *PUBLIC,
            *LANGUAGE_IDENTIFICATION,
            *SENTENCES,
            *ZSTD,
            *SERVE,
            "httpx>=0.27",  # requests to the server
            "nbclient>=0.10",  # runs the notebooks of docs/
            "ipykernel>=6.29",
            *TRITON,
        ],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.27,<2"],
        "public": PUBLIC,
        "split": SENTENCES,
        "zst": ZSTD,
        "serve": SERVE,
        "gpu": TRITON,
        "langid": LANGUAGE_IDENTIFICATION,
        "comet": COMET,
        "wandb": WANDB,
        "mlflow": MLFLOW,
    },
    entry_points={"console_scripts": ["smoe-mt=smoe_mt.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
    ],
)
