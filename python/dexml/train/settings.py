"""The settings of a training."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator
from pydantic_settings import CliPositionalArg

from dexml import _rust
from dexml.config import Settings
from dexml.metrics import DEFAULT_CONSTANTS, propensity_constants

SWITCHES = ("resume", "overwrite", "quiet", "debug", "out", "data_dir", "threads", "device")
"""Settings that do not belong to the result: a resumed run may have others."""


class TrainSettings(Settings):
    """Train a dual encoder on a folder in the LF layout."""

    data_dir: CliPositionalArg[Path] = Field(description="data set, a folder in the LF layout")
    out: Path = Field(description="run directory, made by this command")
    resume: bool = Field(False, description="go on with the run in --out where it stopped")
    overwrite: bool = Field(False, description="replace the run in --out")

    encoder: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2", description="encoder: a folder or a hub name"
    )
    seed: int = Field(0, ge=0, description="seed of every random choice")
    device: str = Field("auto", description="cpu, cuda, cuda:1; auto takes CUDA if it is there")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of torch; 0: its own choice")
    point_tokens: int = Field(64, ge=3, description="tokens of a point's text at most")
    label_tokens: int = Field(64, ge=3, description="tokens of a label's text at most")
    temperature: float = Field(0.06, gt=0, description="divides the dot products in the loss")

    validation: float = Field(
        0.1, ge=0, lt=1, description="share of the training points (by hash) held out to select on"
    )
    propensity: str = Field("", description="benchmark whose constants weigh PSP@k, by its name")
    propensity_a: float = Field(0.55, description="constant A of the propensities")
    propensity_b: float = Field(1.5, ge=0, description="constant B of the propensities")
    select: str = Field("nDCG@5", description="metric that chooses epoch and prior")
    refit: bool = Field(True, description="after the selection, train on all points the same way")
    evaluate_every: int = Field(1, ge=1, description="epochs between validations")

    head_epochs: int = Field(10, ge=0, description="epochs on frozen features, against all labels")
    batch_size: int = Field(256, ge=1, description="points a step on frozen features")
    head_lr: float = Field(1e-3, gt=0, description="peak learning rate of the head")
    residual_lr: float = Field(5e-4, ge=0, description="peak rate of the label residuals; 0: none")
    residual_shrink: float = Field(
        10.0, gt=0, description="residuals start at n/(n + this) of the label's centroid"
    )
    bias_lr: float = Field(3e-2, ge=0, description="peak rate of the label biases; 0: none")
    weight_decay: float = Field(0.01, ge=0, description="of the head and the transformer")
    warmup: float = Field(0.08, ge=0, le=1, description="share of the steps with a rising rate")

    finetune_epochs: int = Field(0, ge=0, description="epochs that train the upper layers too")
    finetune_layers: int = Field(3, ge=1, description="transformer layers to train, from the top")
    finetune_batch_size: int = Field(64, ge=1, description="points a step of fine-tuning")
    finetune_lr: float = Field(
        5e-5, gt=0, description="peak learning rate of the layers and the head"
    )
    pool_positives: int = Field(4, ge=1, description="positives of each point in the label pool")
    pool_random: int = Field(128, ge=0, description="random labels in the label pool of a step")

    @field_validator("propensity")
    @classmethod
    def _known_benchmark(cls, name: str) -> str:
        if name:
            propensity_constants(name)
        return name

    @model_validator(mode="after")
    def _one_source_of_constants(self) -> TrainSettings:
        if self.propensity and (self.propensity_a, self.propensity_b) != DEFAULT_CONSTANTS:
            raise ValueError("give --propensity or --propensity-a and --propensity-b, not both")
        return self

    @field_validator("select")
    @classmethod
    def _known_metric(cls, name: str) -> str:
        _rust.parse_metrics([name])
        return name
