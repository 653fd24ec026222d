"""Every setting does something: a changed value gives another run."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array, save_npz

from dexml import config, data, losses, train
from dexml.console import run
from dexml.metrics import __main__ as metrics_command
from dexml.metrics import evaluate, inv_propensity
from dexml.run import Run
from dexml.train import TrainSettings, schedule, selection, settings, stages, step
from small import log_of, part_path, train_settings, weights

SWITCHES = {
    *("data_dir", "out", "resume", "overwrite", "quiet", "debug", "device", "threads"),
    *("plan", "plan_json", "tensorboard", "wandb", "wandb_mode"),
    *("keep_tokens", "keep_checkpoints", "checkpoint_minutes", "keep_texts"),
    *("cache", "cache_gigabytes"),
    *("test", "labels", "text_column", "label_column", "separator", "split_column"),
}
"""Fields of `TrainSettings` that do not belong to the result."""

BASES: dict[str, dict[str, Any]] = {
    # No validation part: the last epoch of both stages is what is saved.
    "plain": {
        "validation": 0,
        "stages": "heads,encoder",
        "head_epochs": 2,
        "encoder_epochs": 1,
        "encoder_layers": 1,
        "negatives_per_point": 2,
    },
    # The validation scores are those of `SCORES`, one after the other.
    "selecting": {"head_epochs": 4},
    "kept": {"head_epochs": 4, "refit": False},
    "soft": {"validation": 0, "loss": "soft-top-3"},
    "bce": {"validation": 0, "loss": "bce"},
    "whole": {"validation": 0, "stages": "encoder", "encoder_epochs": 1},
    "hard": {
        "validation": 0,
        "stages": "encoder",
        "encoder_epochs": 4,
        "encoder_layers": 1,
        "negatives": "hard",
        "shortlist_size": 10,
        "shortlist_start": 1,
        "shortlist_every": 1,
    },
    "drawn": {"validation": 0, "head_epochs": 1, "head_negatives": "uniform", "head_pool": 64},
    "two": {"validation": 0, "head_epochs": 1, "head": "two"},
    "joint": {
        "validation": 0,
        "stages": "joint",
        "joint_epochs": 1,
        "encoder_layers": 1,
        "negatives": "all",
    },
    "triplet": {"validation": 0, "head_epochs": 1, "loss": "triplet"},
    "dexa": {"validation": 0, "head_epochs": 1, "label_clusters": 5},
    "rounded": {"validation": 0, "table": "bf16", "head_epochs": 1},
    "clusters": {"validation": 0, "batches": "clusters", "head_epochs": 1},
    "graph": {"validation": 0, "stages": "encoder", "encoder_epochs": 1, "negatives": "graph"},
}
SCORES = {"nDCG@5": [0.2, 0.1, 0.9, 0.3], "P@1": [0.9, 0.2, 0.1, 0.3]}

CHANGES: list[tuple[str, Any, str]] = [
    ("seed", 2, "plain"),
    ("encoder", "OTHER", "plain"),
    ("pooling", "cls", "plain"),
    ("normalize", "no", "plain"),
    ("head", "shared", "two"),
    ("point_tokens", 4, "plain"),
    ("label_tokens", 3, "plain"),
    ("point_prompt", "game: ", "plain"),
    ("label_prompt", "game: ", "plain"),
    ("stages", "encoder,heads", "plain"),
    ("loss", "decoupled, softmax from 0.5", "plain"),
    ("temperature", 0.1, "plain"),
    ("alpha", 1.0, "soft"),
    ("text_weight", 0.5, "plain"),
    ("beat_text", 0.5, "plain"),
    ("margin", 0.3, "triplet"),
    ("scale_lr", 0.1, "bce"),
    ("validation", 0.3, "kept"),
    ("select", "P@1", "selecting"),
    ("refit", False, "selecting"),
    ("evaluate_every", 2, "selecting"),
    ("patience", 1, "kept"),
    ("head_epochs", 3, "plain"),
    ("head_batch_size", 50, "plain"),
    ("head_lr", 0.002, "plain"),
    ("head_negatives", "uniform", "plain"),
    ("head_pool", 300, "drawn"),
    ("head_penalty", 0.5, "two"),
    ("residual_lr", 0.001, "plain"),
    ("residual_shrink", 5.0, "plain"),
    ("label_clusters", 5, "plain"),
    ("label_cluster_lr", 0.01, "dexa"),
    ("bias_lr", 0.02, "plain"),
    ("table", "bf16", "plain"),
    ("table_update", "sgd", "rounded"),
    ("weight_decay", 0.1, "plain"),
    ("beta1", 0.8, "plain"),
    ("beta2", 0.99, "plain"),
    ("eps", 1e-4, "plain"),
    ("clip", 0.01, "plain"),
    ("warmup", 0.5, "plain"),
    ("encoder_epochs", 2, "plain"),
    ("encoder_layers", 2, "plain"),
    ("encoder_batch_size", 50, "plain"),
    ("encoder_lr", 1e-4, "plain"),
    ("joint_epochs", 2, "joint"),
    ("joint_batch_size", 50, "joint"),
    ("joint_lr", 1e-4, "joint"),
    ("freeze_embeddings", True, "whole"),
    ("cache_layers", True, "plain"),
    ("packed", True, "plain"),
    ("negatives", "frequency", "plain"),
    ("negatives_per_point", 1, "plain"),
    ("positives_per_point", 1, "plain"),
    ("weigh_negatives", False, "plain"),
    ("graph", "random-walk", "graph"),
    ("shortlist_size", 3, "hard"),
    ("shortlist_start", 2, "hard"),
    ("shortlist_every", 3, "hard"),
    ("batches", "clusters", "plain"),
    ("cluster_size", 4, "clusters"),
    ("micro_tokens", 40, "plain"),
    ("precision", "bfloat16", "plain"),
    ("deterministic", True, "plain"),
]
ELSEWHERE = {
    *("compile", "validation_points", "memory", "ranker", "favour", "tree", "bilinear"),
    *("stop_words", "engine", "form", "groups"),
}
"""Tried in tests of their own (here, in `test_train.py`, `test_train_ranker.py`, ...)."""
SCORE_CHANGES = [("propensity", "Amazon-3M"), ("propensity_a", 0.7), ("propensity_b", 2.5)]
"""What changes no weights, only the scores of PSP@k, in the selection and in the end."""

Weights = dict[str, torch.Tensor]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def other_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with other weights in its first layer."""
    folder = Path(shutil.copytree(tiny_encoder, tmp_path_factory.mktemp("other") / "encoder"))
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layer.0.output.dense.weight"))
    tensors[name] *= -1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def trained(
    filtered: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Weights]:
    """Train a base with changes; the weights, kept for the bases themselves."""
    known: dict[str, Weights] = {}

    def weights_of(base: str, **changes: Any) -> Weights:
        if base in known and not changes:
            return known[base]
        n_calls = 0

        def scripted(*arguments: Any, **options: Any) -> dict[str, float]:
            nonlocal n_calls
            n_calls += 1
            return {name: [*s, *[0.0] * 99][n_calls - 1] for name, s in SCORES.items()}

        out = tmp_path_factory.mktemp("runs") / "run"
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(selection, "validate", scripted)
            values = {"encoder": tiny_encoder} | BASES[base] | changes
            train.train(train_settings(filtered, values.pop("encoder"), out, **values))
        found = weights(out)
        if not changes:
            known[base] = found
        return found

    return weights_of


def same(a: Weights, b: Weights) -> bool:
    # Other keys: another head, or no norm, has other modules.
    return a.keys() == b.keys() and all(torch.equal(t, b[name]) for name, t in a.items())


def test_every_setting_is_tried() -> None:
    tried = [name for name, *_ in CHANGES] + [name for name, _ in SCORE_CHANGES]
    assert sorted(tried) == sorted(TrainSettings.model_fields.keys() - SWITCHES - ELSEWHERE)
    assert set(settings.SWITCHES) == SWITCHES


@pytest.mark.parametrize(("name", "value", "base"), CHANGES, ids=[name for name, *_ in CHANGES])
def test_a_changed_setting_changes_the_weights(
    trained: Callable[..., Weights], other_encoder: Path, name: str, value: Any, base: str
) -> None:
    value = str(other_encoder) if value == "OTHER" else value
    defaults = {field: info.default for field, info in TrainSettings.model_fields.items()}
    assert value != (defaults | BASES[base])[name]
    assert not same(trained(base), trained(base, **{name: value}))


def test_a_changed_propensity_changes_the_psp_alone(
    filtered: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    runs = []
    for i, changes in enumerate([{}, *({name: value} for name, value in SCORE_CHANGES)]):
        out = tmp_path / str(i)
        train.train(train_settings(filtered, tiny_encoder, out, head_epochs=1, **changes))
        log = log_of(out)
        tested = json.loads((out / "metrics.json").read_text())["metrics"]
        runs.append((weights(out), log[0]["validation"], tested))
    for i, (found, *scores) in enumerate(runs[1:], start=1):
        assert same(found, runs[0][0])
        for before, after in zip(runs[0][1:], scores, strict=True):
            changed = {name for name in before if before[name] != after[name]}
            assert changed == {"PSP@1", "PSP@5"}, SCORE_CHANGES[i - 1]


def test_switches_change_nothing(
    trained: Callable[..., Weights], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    switched = trained(
        "plain",
        quiet=False,
        debug=True,
        device="cpu",
        threads=1,
        resume=True,
        keep_tokens=1,
        keep_checkpoints=1,
        checkpoint_minutes=1e-9,
        tensorboard=True,
        wandb_mode="offline",
        cache=str(tmp_path / "cache"),
        cache_gigabytes=1.0,
    )
    assert list((tmp_path / "cache").iterdir())
    assert "300 training and" in capsys.readouterr().err
    assert same(trained("plain"), switched)


def test_no_memory_is_chosen_or_written_where_none_is_wanted(
    filtered: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    found = {}
    for asked in ("auto", "none"):
        out = tmp_path / asked
        train.train(train_settings(filtered, tiny_encoder, out, head_epochs=2, memory=asked))
        found[asked] = Run.open(out).facts["selected"]
        assert (out / "neighbours").exists() == (found[asked]["kind"] == "votes")
    assert found["auto"]["gain"]
    assert found["none"]["kind"] == "none"
    assert not found["none"]["gain"]
    for name, tensor in weights(tmp_path / "auto").items():
        if name != "dense/table/bias":  # the prior in it is chosen together with the votes
            assert torch.equal(tensor, weights(tmp_path / "none")[name])


@pytest.mark.parametrize(("name", "value"), [c[:2] for c in [*CHANGES, *SCORE_CHANGES]])
def test_command_line_and_file_reach_the_setting(tmp_path: Path, name: str, value: Any) -> None:
    option = "--" + name.replace("_", "-")
    more: dict[str, Any] = {"encoder_layers": 1} if name == "cache_layers" else {}
    flag = [option] if value is True else [option, str(value)]
    flag = [f"--no-{option[2:]}"] if value is False else flag
    flag += [part for n, v in more.items() for part in ("--" + n.replace("_", "-"), str(v))]
    (tmp_path / "settings.toml").write_text(tomli_w.dumps({name: value, **more}))
    file = ["--config", str(tmp_path / "settings.toml")]
    for arguments in (flag, file):
        found = config.parse(TrainSettings, ["data", "--out", "run", *arguments], "train")
        expected = TrainSettings(data_dir=Path("data"), out=Path("run"), **{name: value}, **more)
        assert found == expected


def test_evaluate_every_counts_epochs_and_the_last_is_never_left_out(
    filtered: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train.train(train_settings(filtered, tiny_encoder, out, head_epochs=5, evaluate_every=2))
    log = log_of(out)
    assert [entry["epoch"] for entry in log if "validation" in entry] == [2, 4, 5]


@pytest.mark.parametrize("rate", ["residual_lr", "bias_lr"])
def test_a_rate_of_zero_leaves_its_part_of_the_table_out(
    filtered: Path, tiny_encoder: Path, tmp_path: Path, rate: str
) -> None:
    out = tmp_path / "run"
    changes = BASES["plain"] | {rate: 0.0}
    train.train(train_settings(filtered, tiny_encoder, out, **changes))
    table = load_file(part_path(out, "dense/table"))
    for name in ("residual", "bias"):
        assert bool((table[name] == 0).all()) == rate.startswith(name)


def test_every_parameter_has_its_own_rate_and_decay(
    filtered: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decay is for the matrices of encoder and head; vectors and the label table have none."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    plain = stages.make

    def look(name: str, *arguments: Any) -> Any:
        stage = plain(name, *arguments)
        assert stage.optimizer is not None
        groups = stage.optimizer.param_groups
        of = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
        found[name] = {n: of[id(p)] for n, p in stage.model.named_parameters() if id(p) in of}
        if stage.own_table is not None:
            for n, p in stage.own_table.named_parameters():
                found[name][f"table.{n}"] = of[id(p)]
        return stage

    monkeypatch.setattr(stages, "make", look)
    rates = {"head_lr": 0.01, "residual_lr": 0.02, "bias_lr": 0.03, "encoder_lr": 0.04}
    changes = BASES["plain"] | {"stages": "heads,encoder,joint", "joint_epochs": 1}
    changes |= {"negatives": "all", "weight_decay": 0.5, "joint_lr": 0.05}
    train.train(train_settings(filtered, tiny_encoder, tmp_path / "run", **changes, **rates))
    table = {
        "encoder.head.weight": (0.01, 0.5),
        "table.residual": (0.02, 0.0),
        "table.bias": (0.03, 0.0),
    }
    assert found["heads"] == table
    layer = {
        f"encoder.transformer.{name}": (0.04, 0.5 if tensor.ndim == 2 else 0.0)
        for name, tensor in load_file(tiny_encoder / "model.safetensors").items()
        if "layer.1." in name
    }
    assert {wd for _, wd in layer.values()} == {0.0, 0.5}
    assert found["encoder"] == layer | {"encoder.head.weight": (0.04, 0.5)}
    tuned = {name: (0.05, decay) for name, (_, decay) in found["encoder"].items()}
    assert found["joint"] == table | tuned


@pytest.mark.parametrize("dropout", [0.3, 0.0])
def test_dropout_is_active_while_fine_tuning(
    filtered: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dropout: float,
) -> None:
    """Each step is taken twice: embeddings differ with another seed, if there is dropout."""
    encoder = Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))
    content = json.loads((encoder / "config.json").read_text())
    content |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    (encoder / "config.json").write_text(json.dumps(content))
    plain = losses.decoupled_softmax
    passes: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watch(points: torch.Tensor, labels: torch.Tensor, *rest: Any, **options: Any) -> Any:
        passes.append((points.detach().clone(), labels.detach().clone()))
        return plain(points, labels, *rest, **options)

    take = step.gradients

    def twice(stage: Any, batch: Any, epoch: int, number: int, steps: int) -> Any:
        take(stage, batch, epoch, number + 1000, steps)
        return take(stage, batch, epoch, number, steps)

    monkeypatch.setattr(losses, "decoupled_softmax", watch)
    monkeypatch.setattr(step, "gradients", twice)
    # The second epoch comes after a validation, which switches dropout off.
    changes = {"stages": "encoder", "encoder_epochs": 2, "refit": False}
    train.train(train_settings(filtered, encoder, tmp_path / "run", **changes))
    assert len(passes) >= 8
    for first, second in zip(passes[::2], passes[1::2], strict=True):
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b) == (dropout == 0)


def test_compile_compiles_the_features(
    filtered: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights, by way of `torch.compile`."""
    calls = 0

    def compiled(function: Any, **options: Any) -> Any:
        def count(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            return function(*arguments)

        assert options == {"dynamic": True}
        return count

    monkeypatch.setattr(torch, "compile", compiled)
    for name in ("plain", "compiled"):
        out = tmp_path / name
        changes = BASES["plain"] | {"compile": name == "compiled"}
        train.train(train_settings(filtered, tiny_encoder, out, **changes))
        assert (calls > 0) == (name == "compiled")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "compiled"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stages", "head", "unknown stage 'head' .*did you mean 'heads'"),
        ("stages", "heads,heads", "names a stage twice"),
        ("stages", "", "unknown stage ''"),
        ("loss", "decoupeld", "unknown loss 'decoupeld' .*did you mean 'decoupled'"),
        ("loss", "soft-top", "expected 'soft-top-5'"),
        ("loss", "soft-top-0", "expected 'soft-top-5'"),
        ("loss", "softmax-3", "expected 'softmax'"),
        ("loss", "softmax from 0.5", "the first loss is used from the start"),
        ("loss", "softmax, bce", "later losses need 'from SHARE', rising and below 1"),
        ("loss", "softmax, bce from 1", "later losses need"),
        ("loss", "softmax, bce from 0.6, decoupled from 0.5", "later losses need"),
        ("loss", "softmax, bce from 0.5.1", "0.5.1 is not a share of the steps"),
        ("loss", "soft max", "'soft max' is not a loss"),
        ("negatives", "hrad", "unknown negatives 'hrad' .*did you mean 'hard'"),
        ("negatives", "hard 0.5, uniform 0.2", "add up to 0.7, not 1"),
        ("negatives", "hard 0.5, hard 0.5", "each source once"),
        ("negatives", "hard 2", "expected 'hard SHARE'"),
        ("head_negatives", "hard x", "expected 'hard SHARE'"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSettings(data_dir=Path("data"), out=Path("run"), **{name: value})  # type: ignore[arg-type]


def test_settings_that_do_not_go_together() -> None:
    """Defect 10: bce with drawn positives; and layers to cache of which none is frozen."""
    for changes, message in (
        ({"loss": "softmax, bce from 0.5", "positives_per_point": 1}, "bce with --positives-per"),
        ({"cache_layers": True}, "needs frozen layers: give --encoder-layers"),
        ({"packed": True, "compile": True}, "--packed and --compile exclude each other"),
        (
            {"packed": True, "cache_layers": True, "encoder_layers": 1},
            "--packed and --cache-layers exclude each other",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            TrainSettings(data_dir=Path("data"), out=Path("run"), **changes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("batch_size", "head_batch_size"),
        ("finetune_epochs", None),
        ("finetune_lr", None),
        ("pool_positives", None),
        ("pool_random", None),
    ],
)
def test_old_names_are_unknown(
    capsys: pytest.CaptureFixture[str], old: str, new: str | None
) -> None:
    """Defect 4: nothing is ignored in silence."""
    arguments = ["data", "--out", "run", "--" + old.replace("_", "-"), "3"]
    with pytest.raises(SystemExit):
        config.parse(TrainSettings, arguments, "train")
    err = capsys.readouterr().err
    assert f"unknown option '--{old.replace('_', '-')}'" in err
    assert new is None or f"did you mean '--{new.replace('_', '-')}'" in err


def test_losses_in_turn() -> None:
    parts = schedule.parse_loss("decoupled, soft-top-5 from 0.7, topk-hinge-12 from .9")
    found = [(part.start, part.loss.name, part.k) for part in parts]
    assert found == [(0, "decoupled", None), (0.7, "soft-top", 5), (0.9, "topk-hinge", 12)]
    names = [schedule.loss_at(parts, number, 10).loss.name for number in range(10)]
    assert names == ["decoupled"] * 7 + ["soft-top"] * 2 + ["topk-hinge"]


def test_shortlist_right_after_the_start() -> None:
    """Defect 23: start 3, refresh 5."""
    late = schedule.StageSchedule(
        "encoder", 15, 64, {"hard": 1.0}, 2, shortlist_start=3, shortlist_every=5
    )
    assert [epoch for epoch in range(1, 16) if late.mines_before(epoch)] == [4, 9, 14]
    assert replace(late, shortlist_start=0).mines_before(1)
    assert not replace(late, shortlist_start=0, negatives={"uniform": 1.0}).mines_before(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Truth with empty rows and rows shorter than k, predictions, and all that goes with them."""
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    y = (generator.random((60, 12)) < 0.2).astype(np.float32)
    y[::7] = 0
    save_npz(folder / "true.npz", csr_array(y))
    save_npz(folder / "train.npz", csr_array((generator.random((40, 12)) < 0.3).astype(np.float32)))
    save_npz(folder / "pred.npz", csr_array(generator.integers(1, 6, (60, 12)) / 5))
    save_npz(folder / "other.npz", csr_array(generator.random((60, 12))))
    (folder / "pairs.txt").write_text("".join(f"{row} {row % 12}\n" for row in range(60)))
    (folder / "groups.txt").write_text("".join(f"{row % 20}\n" for row in range(60)))
    return folder


METRIC_OPTIONS = [
    (["--train", "train.npz"], []),
    (["--filter", "pairs.txt"], []),
    (["--metrics", "R@2"], []),
    (["--a", "0.7"], ["--train", "train.npz"]),
    (["--b", "2.5"], ["--train", "train.npz"]),
    (["--propensity", "Amazon-3M"], ["--train", "train.npz"]),
    (["--empty-rows", "skip"], []),
    (["--psndcg", "matlab"], ["--train", "train.npz", "--metrics", "PSnDCG@5"]),
    (["--ties", "larger"], []),
    (["--per-group", "seen"], ["--train", "train.npz"]),
    (["--views"], ["--train", "train.npz"]),
    (["--ci", "50"], []),
    (["--compare", "other.npz"], []),
    (["--groups", "groups.txt"], ["--ci", "50"]),
    (["--seed", "3"], ["--ci", "50"]),
]
SAID = ("metrics", "groups", "views", "intervals", "comparison")
METRIC_SWITCHES = {
    *("--help", "--threads", "--json", "--csv", "--quiet", "--debug"),
    # Of errors by label, tried in `test_metrics_errors.py`.
    *("--by-label", "--confusions", "--at", "--order", "--top", "--labels", "--data", "--out"),
}


def scored(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *more: str
) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    assert run(metrics_command.main, ["pred.npz", "true.npz", "--json", *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_option_of_metrics_is_tried() -> None:
    known = {a.option_strings[-1] for a in metrics_command._parser()._actions if a.option_strings}
    assert {option[0] for option, _ in METRIC_OPTIONS} == known - METRIC_SWITCHES


@pytest.mark.parametrize(
    ("option", "others"), METRIC_OPTIONS, ids=[o[0] for o, _ in METRIC_OPTIONS]
)
def test_an_option_of_metrics_changes_the_numbers(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: list[str],
    others: list[str],
) -> None:
    numbers = [
        {name: content.get(name) for name in SAID}
        for more in (others, others + option)
        for content in [scored(files, capsys, monkeypatch, *more)]
    ]
    assert numbers[0] != numbers[1]


@pytest.mark.parametrize("psndcg", ["xclib", "matlab"])
@pytest.mark.parametrize("empty_rows", ["zero", "skip"])
def test_conventions_of_the_command_are_those_of_the_function(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    psndcg: Any,
    empty_rows: Any,
) -> None:
    names = ["P@1", "nDCG@3", "PSnDCG@5"]
    content = scored(
        *(files, capsys, monkeypatch),
        *("--train", "train.npz", "--metrics", ",".join(names)),
        *("--psndcg", psndcg, "--empty-rows", empty_rows),
    )
    expected = evaluate(
        data.load_labels(files / "true.npz"),
        data.load_scores(files / "pred.npz"),
        names,
        inv_propensity=inv_propensity(data.load_labels(files / "train.npz")),
        psndcg=psndcg,
        empty_rows=empty_rows,
    )
    assert content["metrics"] == expected
    assert content["conventions"]["psndcg"] == psndcg
    assert content["conventions"]["empty_rows"] == empty_rows
