"""The settings of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import CliPositionalArg

from dexml import _rust
from dexml.config import Settings
from dexml.metrics import DEFAULT_CONSTANTS, propensity_constants
from dexml.threads import MAX_THREADS
from dexml.train.schedule import LOSS_EXAMPLES, parse_loss, parse_negatives, parse_stages
from dexml.train.together import check_together

READING = ("test", "labels", "text_column", "label_column", "separator", "split_column")
"""Settings that say how a table is read; the folder that is made of it keeps them."""
SWITCHES = (
    *("resume", "overwrite", "quiet", "debug", "out", "data_dir", "threads", "device"),
    *("plan", "plan_json", "tensorboard", "wandb", "wandb_mode"),
    *("keep_tokens", "keep_checkpoints", "checkpoint_minutes", "keep_texts"),
    *("cache", "cache_gigabytes"),
    *READING,
)
"""Settings that do not belong to the result: a resumed run may have others."""


CACHE_GIGABYTES = 50.0
NO_ENCODER = "none"
"""The encoder of a light run."""


class TrainSettings(Settings):
    """Train on a table of texts and labels, or on a folder in the LF layout."""

    data_dir: CliPositionalArg[Path] = Field(
        description="data set: a table (JSON lines, CSV, TSV, Parquet, lines of fastText or PECOS, "
        "a bag of words) or a folder in the LF layout"
    )
    out: Path = Field(description="run directory, made by this command")
    test: Path | None = Field(None, description="of a table: another one, of test points")
    labels: Path | None = Field(
        None,
        description="of a table: another one, with columns id and text of the labels; or a file "
        ".txt with a label a line",
    )
    text_column: str = Field("text", description="of a table: column with the text of a point")
    label_column: str = Field("labels", description="of a table: column with its labels")
    separator: str | None = Field(
        None,
        description="of a table: what stands between labels in a string; '': it is one label",
    )
    split_column: str | None = Field(
        None, description="of a table: column that says train or test for each row"
    )
    resume: bool = Field(False, description="go on with the run in --out where it stopped")
    overwrite: bool = Field(False, description="replace the run in --out")
    plan: bool = Field(False, description="only say what the training will cost")
    plan_json: bool = Field(False, description="the same as one JSON object")
    tensorboard: bool = Field(False, description="write RUN/tensorboard as well")
    wandb: str = Field("", description="project of Weights & Biases that gets the log")
    wandb_mode: Literal["online", "offline"] = Field("online", description="offline: RUN/wandb")

    encoder: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        description="folder or hub name; none: a light run, without torch",
    )
    pooling: Literal["auto", "mean", "cls"] = Field(
        "auto", description="how token states become one vector; auto: as the encoder's folder says"
    )
    normalize: Literal["auto", "yes", "no"] = Field(
        "auto", description="whether embeddings have unit norm; auto: as the encoder's folder says"
    )
    head: Literal["auto", "none", "shared", "two"] = Field(
        "auto", description="linear map behind the pooling, two: one for points, one for labels"
    )
    point_prompt: str = Field(
        "auto",
        description="put before the text of every point, as in 'query: '; auto: as the encoder's "
        "folder says; empty: nothing",
    )
    label_prompt: str = Field(
        "auto", description="the same for labels, as in 'passage: '; auto: as the folder says"
    )
    seed: int = Field(0, ge=0, description="seed of every random choice")
    device: str = Field("auto", description="cpu, cuda, cuda:1; auto takes CUDA if it is there")
    threads: int = Field(
        0, ge=0, le=MAX_THREADS, description="CPU threads; 0: all cores, in torch its own choice"
    )
    point_tokens: int = Field(64, ge=3, description="tokens of a point's text at most")
    label_tokens: int = Field(64, ge=3, description="tokens of a label's text at most")

    stages: str = Field(
        "heads",
        description="what is trained, in turn: heads (head, label residuals and biases on frozen "
        "features), encoder (transformer and head), joint (all of them together); as in "
        "heads,encoder",
    )
    loss: str = Field(
        "decoupled",
        description=f"{', '.join(LOSS_EXAMPLES)}; several in turn with the share of a stage's "
        "steps: decoupled, soft-top-5 from 0.7",
    )
    temperature: float = Field(0.06, gt=0, description="divides the dot products in the loss")
    text_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of a second loss in which a label is its text alone, without residual "
        "and bias, as labels without training points are served without --label-clusters "
        "(UniDEC); 0: none",
    )
    beat_text: float = Field(
        0.0,
        ge=0,
        description="weight of a term by which a label's vector beats that of its text alone by "
        "--margin, on its own points (PRIME); 0: none",
    )
    margin: float = Field(0.1, gt=0, description="of triplet and --beat-text, in dot products")
    alpha: float = Field(2.0, gt=0, description="slope of soft-top-k")
    scale_lr: float = Field(
        1e-2, ge=0, description="peak rate of the scale and the offset that bce learns; 0: neither"
    )

    validation: float = Field(
        0.1, ge=0, lt=1, description="share of the training points (by hash) held out to select on"
    )
    validation_points: int = Field(
        20_000, ge=1, description="held-out points that are scored, at most (the first by hash)"
    )
    groups: Literal["auto", "file"] = Field(
        "auto",
        description="points that are held out together; auto: near copies, where there is no "
        "raw/trn_groups.txt; file: by that file only",
    )
    propensity: str = Field("", description="benchmark whose constants weigh PSP@k, by its name")
    propensity_a: float = Field(0.55, description="constant A of the propensities")
    propensity_b: float = Field(1.5, ge=0, description="constant B of the propensities")
    select: str = Field("nDCG@5", description="metric that chooses epoch, prior and memory")
    memory: Literal["auto", "none"] = Field(
        "auto", description="training points vote at search, if that helps on the validation part"
    )
    ranker: Literal["auto", "none"] = Field(
        "auto",
        description="rank candidates by words, votes and embeddings together, if that helps on "
        "the validation part",
    )
    favour: Literal["balanced", "tail"] = Field(
        "balanced",
        description="whom the ranker serves: tail weighs positives by the root of their inverse "
        "propensity (PSP@k up, P@k down)",
    )
    tree: Literal["auto", "none"] = Field(
        "auto",
        description="give the ranker a label tree on words too, if that helps on the validation "
        "part",
    )
    bilinear: Literal["auto", "none"] = Field(
        "auto",
        description="give the ranker learned pairs of words of text and label too (ZestXML), if "
        "that helps on the validation part",
    )
    stop_words: Literal["auto", "none"] = Field(
        "auto",
        description="leave common function words (the, und, de) of the languages that the texts "
        "are written in out of the evidence from words",
    )
    keep_texts: bool = Field(
        True,
        description="keep the texts of the training points that vote in the run, packed, so that "
        "explanations can show them",
    )
    refit: bool = Field(True, description="after the selection, train on all points the same way")
    evaluate_every: int = Field(1, ge=1, description="epochs between validations")
    patience: int = Field(
        0, ge=0, description="validations without a better score that end a stage; 0: never"
    )

    head_epochs: int = Field(10, ge=0, description="epochs of the stage heads")
    head_batch_size: int = Field(256, ge=1, description="points a step of the stage heads")
    head_lr: float = Field(1e-3, gt=0, description="peak learning rate of the head")
    head_negatives: str = Field(
        "auto",
        description="negatives of the stage heads: as --negatives; auto: all of up to 32,768 "
        "labels, else uniform",
    )
    head_pool: int = Field(
        8192, ge=1, description="negatives drawn for a step of the stage heads, unless all compete"
    )
    head_penalty: float = Field(
        0.1, ge=0, description="holds two heads together: times their squared distance"
    )
    residual_lr: float = Field(5e-4, ge=0, description="peak rate of the label residuals; 0: none")
    residual_shrink: float = Field(
        10.0, gt=0, description="residuals start at n/(n + this) of the label's centroid"
    )
    table: Literal["float32", "bf16"] = Field(
        "float32",
        description="numbers of the label residuals; bf16: rounded at random without bias, and "
        "no moments: 2 bytes a number in place of 12",
    )
    table_update: Literal["adaptive", "sgd"] = Field(
        "adaptive",
        description="how residuals in bf16 move; adaptive: one number a label scales its rate; "
        "sgd: by --residual-lr times the gradient",
    )
    label_clusters: int = Field(
        0,
        ge=0,
        description="clusters of near labels that share a learned vector, added to theirs (DEXA); "
        "0: none",
    )
    label_cluster_lr: float = Field(5e-4, gt=0, description="peak rate of these vectors")
    bias_lr: float = Field(3e-2, ge=0, description="peak rate of the label biases; 0: none")

    encoder_epochs: int = Field(5, ge=0, description="epochs of the stage encoder")
    encoder_batch_size: int = Field(
        64, ge=1, description="points a step of the stage encoder, of all processes together"
    )
    encoder_lr: float = Field(
        3e-4, gt=0, description="peak learning rate of the transformer and the head"
    )
    joint_epochs: int = Field(5, ge=0, description="epochs of the stage joint")
    joint_batch_size: int = Field(
        64, ge=1, description="points a step of the stage joint, of all processes together"
    )
    joint_lr: float = Field(
        5e-5,
        gt=0,
        description="peak learning rate of the transformer and the head in the stage joint; the "
        "table has --residual-lr and --bias-lr",
    )
    encoder_layers: int = Field(
        0, ge=0, description="transformer layers to train, from the top; 0: all and the embeddings"
    )
    freeze_embeddings: bool = Field(False, description="leave the token embeddings as they are")
    cache_layers: bool = Field(
        False, description="keep the outputs of the frozen lower layers on disk (no dropout there)"
    )
    negatives: str = Field(
        "uniform",
        description="negatives of the stages encoder and joint: all, in-batch, or a mixture by "
        "share of hard, graph, frequency, uniform, as in hard 0.5, uniform 0.5",
    )
    negatives_per_point: int = Field(
        2, ge=1, description="negatives drawn for each point; all points of a step share them"
    )
    positives_per_point: int = Field(
        0, ge=0, description="positives drawn for each point of a step; 0: all of them"
    )
    weigh_negatives: bool = Field(
        True,
        description="weigh drawn negatives by 1/probability, so that they stand for all labels "
        "(decoupled only; neither hard ones alone nor mixtures with graph)",
    )
    graph: Literal["co-occurrence", "random-walk"] = Field(
        "co-occurrence", description="label graph that graph negatives come from"
    )
    batches: Literal["random", "clusters"] = Field(
        "random",
        description="points of a step; clusters: near ones by the model as it is (NGAME), renewed "
        "when shortlists are",
    )
    cluster_size: int = Field(16, ge=1, description="points of a cluster")
    shortlist_size: int = Field(
        0,
        ge=0,
        description="labels a point that hard negatives are drawn from; 0: as many as it draws "
        "where they are weighted, else 100",
    )
    shortlist_start: int = Field(
        0, ge=0, description="epochs before the first shortlist or clusters"
    )
    shortlist_every: int = Field(5, ge=1, description="epochs that a shortlist or clusters serve")

    weight_decay: float = Field(0.01, ge=0, description="of the head and the transformer")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW: decay of the mean gradient")
    beta2: float = Field(0.98, ge=0, lt=1, description="AdamW: decay of the mean squared gradient")
    eps: float = Field(1e-8, gt=0, description="AdamW: added to the root of the latter")
    clip: float = Field(
        0.0, ge=0, description="greatest gradient norm of head and transformer; 0: any"
    )
    warmup: float = Field(0.08, ge=0, le=1, description="share of the steps with a rising rate")

    micro_tokens: int = Field(
        0, ge=0, description="tokens encoded at a time; 0: 2,048 on a CPU, 65,536 on CUDA"
    )
    keep_tokens: int = Field(
        0,
        ge=0,
        description="tokens of a step, on each side, whose activations are kept; others are "
        "encoded twice; 0: 16,384 on a CPU, 131,072 on CUDA",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the transformer in training, for features and validation too; "
        "auto: bfloat16 on CUDA, else float32",
    )
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="what encodes texts while the transformer stays as it is, and serves the run "
        "without torch; auto: OpenVINO on a CPU if it is installed, else torch",
    )
    form: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="numbers that OpenVINO multiplies; auto: bfloat16, else int8, if that is "
        "faster on this machine and validation points find their labels as well as with float32",
    )
    compile: bool = Field(False, description="torch.compile the transformer")
    packed: bool = Field(
        False,
        description="micro-batches of the stage encoder hold texts of any lengths, packed, in "
        "place of one exact length: fewer and fuller ones, for a GPU and small steps (no dropout "
        "on attention; BERT, DistilBERT, RoBERTa)",
    )
    deterministic: bool = Field(
        False, description="the same bits for 1, 2, 4 and 8 processes; needs more memory"
    )

    keep_checkpoints: int = Field(2, ge=1, description="last checkpoints to keep beside the best")
    checkpoint_minutes: float = Field(
        15.0, gt=0, description="minutes between checkpoints inside an epoch"
    )
    cache: str = Field(
        "", description="folder for tokens and features, which runs may share; default RUN/cache"
    )
    cache_gigabytes: float = Field(
        CACHE_GIGABYTES, gt=0, description="what it may take: the longest unused is removed"
    )

    @field_validator("stages")
    @classmethod
    def _known_stages(cls, text: str) -> str:
        parse_stages(text)
        return text

    @field_validator("loss")
    @classmethod
    def _known_losses(cls, text: str) -> str:
        parse_loss(text)
        return text

    @field_validator("negatives", "head_negatives")
    @classmethod
    def _known_sources(cls, text: str, info: ValidationInfo) -> str:
        if text != "auto" or info.field_name != "head_negatives":
            parse_negatives(text)
        return text

    @field_validator("propensity")
    @classmethod
    def _known_benchmark(cls, name: str) -> str:
        if name:
            propensity_constants(name)
        return name

    @field_validator("select")
    @classmethod
    def _known_metric(cls, name: str) -> str:
        _rust.parse_metrics([name])
        if name.startswith(("macro", "Coverage")):
            raise ValueError(
                f"'{name}' is not a mean over points, so its standard error is not known"
            )
        return name

    @model_validator(mode="after")
    def _go_together(self) -> TrainSettings:
        if self.propensity and (self.propensity_a, self.propensity_b) != DEFAULT_CONSTANTS:
            raise ValueError("give --propensity or --propensity-a and --propensity-b, not both")
        check_together(self)
        return self


def usual(name: str) -> Any:
    """Return the default of a setting."""
    return TrainSettings.model_fields[name].default


def reading_option(settings: TrainSettings) -> str | None:
    """Return the first setting that was given and says how a table is read; None if none was."""
    return next((name for name in READING if getattr(settings, name) != usual(name)), None)
