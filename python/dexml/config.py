"""Settings of the commands: one flat model each, read from a TOML file and the command line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from dexml import _rust, console
from dexml.metrics import DEFAULT_CONSTANTS, propensity_constants


class Settings(BaseSettings):
    """What all commands share. Nothing is read from the environment."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    quiet: bool = Field(False, description="no progress, no messages")
    debug: bool = Field(False, description="show tracebacks")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the constructor alone."""
        return (init_settings,)


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


class IndexSettings(Settings):
    """Build the nearest-neighbour index over the label vectors of a run."""

    run: CliPositionalArg[Path] = Field(description="run directory of dexml.train")
    m: int = Field(16, ge=2, le=256, description="links of a node of the HNSW graph")
    ef_construction: int = Field(200, ge=8, description="candidates while building")
    k: int = Field(10, ge=1, description="recall is measured for this many labels")
    recall: float = Field(0.99, gt=0, le=1, description="ef is raised until this recall is reached")
    seed: int = Field(0, ge=0, description="seed of the graph")


class PredictSettings(Settings):
    """Ask a run for the labels of texts; without TEXTS: the test points of its data set."""

    run: CliPositionalArg[Path] = Field(description="run directory of dexml.train")
    texts: CliPositionalArg[str] = Field("", description="a file with a text a line; - for stdin")
    k: int = Field(10, ge=1, description="labels a text")
    out: Path | None = Field(None, description="write .npz (CSR scores) or .jsonl, not a table")
    data: Path | None = Field(None, description="data set, if it moved since the training")
    search: Literal["auto", "exact", "hnsw"] = Field(
        "auto", description="auto: exact up to 50,000 labels (131,072 for test points)"
    )
    device: str = Field("auto", description="cpu, cuda, cuda:1; auto takes CUDA if it is there")


S = TypeVar("S", bound=Settings)


def parse(model: type[S], argv: list[str], prog: str) -> S:
    """Read settings from ``--config FILE.toml`` and the command line, which wins.

    A wrong name or value ends the command with one line and exit code 2.
    """
    parser = console.Parser(prog=prog, description=model.__doc__, allow_abbrev=False)
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="settings from a file")
    CliSettingsSource(
        model,
        root_parser=parser,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    config = given.pop("config", None)
    values: dict[str, Any] = _read_toml(Path(config)) if config else {}
    for switch in ("debug", "quiet", "resume", "overwrite"):
        if switch in values:
            console.usage_error(f"{config}: '{switch}' belongs on the command line")
    return check(model, values | given, str(config) if config else "command line")


def check(model: type[S], values: dict[str, Any], source: str) -> S:
    """Make settings of `values`; what is wrong with the first one ends the command."""
    for name in values:
        if name not in model.model_fields:
            hint = console.did_you_mean(name, list(model.model_fields))
            console.usage_error(f"{source}: unknown setting '{name}'{hint}")
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "missing":
            shown = "--" + name.replace("_", "-")
            console.usage_error(f"{shown} is missing: {model.model_fields[name].description}")
        message = str(first["msg"]).removeprefix("Value error, ")
        if not name:  # of several settings at once
            console.usage_error(message)
        console.usage_error(f"{name} = {first['input']!r}: {message[:1].lower()}{message[1:]}")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        console.usage_error(f"--config {path}: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        console.usage_error(f"{path}: {error}")
