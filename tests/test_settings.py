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
from dexml.train import TrainSettings, fit, settings
from small import train_settings, weights

SWITCHES = {"data_dir", "out", "resume", "overwrite", "quiet", "debug", "device", "threads"}
"""Fields of `TrainSettings` that do not belong to the result."""

BASES: dict[str, dict[str, Any]] = {
    # No validation part: the last epoch of both phases is what is saved.
    "plain": {
        "validation": 0,
        "head_epochs": 2,
        "finetune_epochs": 1,
        "finetune_layers": 1,
        "pool_positives": 2,
        "pool_random": 20,
    },
    # The validation scores are those of `SCORES`, one after the other.
    "selecting": {"head_epochs": 4},
    "kept": {"head_epochs": 4, "refit": False},
}
SCORES = {"nDCG@5": [0.1, 0.2, 0.9, 0.3], "P@1": [0.9, 0.2, 0.1, 0.3]}

CHANGES = [
    ("seed", 2, "plain"),
    ("encoder", "OTHER", "plain"),
    ("point_tokens", 4, "plain"),
    ("label_tokens", 3, "plain"),
    ("temperature", 0.1, "plain"),
    ("validation", 0.3, "kept"),
    ("select", "P@1", "selecting"),
    ("refit", False, "selecting"),
    ("evaluate_every", 2, "selecting"),
    ("head_epochs", 3, "plain"),
    ("batch_size", 50, "plain"),
    ("head_lr", 0.002, "plain"),
    ("residual_lr", 0.001, "plain"),
    ("residual_shrink", 5.0, "plain"),
    ("bias_lr", 0.02, "plain"),
    ("weight_decay", 0.1, "plain"),
    ("warmup", 0.5, "plain"),
    ("finetune_epochs", 2, "plain"),
    ("finetune_layers", 2, "plain"),
    ("finetune_batch_size", 50, "plain"),
    ("finetune_lr", 1e-4, "plain"),
    ("pool_positives", 1, "plain"),
    ("pool_random", 21, "plain"),
]
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
            if base != "plain":
                patched.setattr(fit, "validate", scripted)
            values = {"encoder": tiny_encoder} | BASES[base] | changes
            train.train(train_settings(filtered, values.pop("encoder"), out, **values))
        found = weights(out)
        if not changes:
            known[base] = found
        return found

    return weights_of


def same(a: Weights, b: Weights) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_every_setting_is_tried() -> None:
    tried = [name for name, *_ in CHANGES] + [name for name, _ in SCORE_CHANGES]
    assert sorted(tried) == sorted(TrainSettings.model_fields.keys() - SWITCHES)
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
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        tested = json.loads((out / "metrics.json").read_text())["metrics"]
        runs.append((weights(out), log[0]["validation"], tested))
    for i, (found, *scores) in enumerate(runs[1:], start=1):
        assert same(found, runs[0][0])
        for before, after in zip(runs[0][1:], scores, strict=True):
            changed = {name for name in before if before[name] != after[name]}
            assert changed == {"PSP@1", "PSP@5"}, SCORE_CHANGES[i - 1]


def test_switches_change_nothing(
    trained: Callable[..., Weights], capsys: pytest.CaptureFixture[str]
) -> None:
    switched = trained("plain", quiet=False, debug=True, device="cpu", threads=1, resume=True)
    assert "300 training and" in capsys.readouterr().err
    assert same(trained("plain"), switched)


@pytest.mark.parametrize(("name", "value"), [c[:2] for c in [*CHANGES, *SCORE_CHANGES]])
def test_command_line_and_file_reach_the_setting(tmp_path: Path, name: str, value: Any) -> None:
    option = "--" + name.replace("_", "-")
    flag = [f"--no-{option[2:]}"] if value is False else [option, str(value)]
    (tmp_path / "settings.toml").write_text(tomli_w.dumps({name: value}))
    file = ["--config", str(tmp_path / "settings.toml")]
    for arguments in (flag, file):
        found = config.parse(TrainSettings, ["data", "--out", "run", *arguments], "train")
        assert found == TrainSettings(data_dir=Path("data"), out=Path("run"), **{name: value})


def test_evaluate_every_counts_epochs_and_the_last_is_never_left_out(
    filtered: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train.train(train_settings(filtered, tiny_encoder, out, head_epochs=5, evaluate_every=2))
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log if "validation" in entry] == [2, 4, 5]


@pytest.mark.parametrize("rate", ["residual_lr", "bias_lr"])
def test_a_rate_of_zero_leaves_its_part_of_the_table_out(
    filtered: Path, tiny_encoder: Path, tmp_path: Path, rate: str
) -> None:
    out = tmp_path / "run"
    changes = BASES["plain"] | {rate: 0.0}
    train.train(train_settings(filtered, tiny_encoder, out, **changes))
    table = load_file(out / "labels.safetensors")
    for name in ("residual", "bias"):
        assert bool((table[name] == 0).all()) == rate.startswith(name)


def watched_phases(
    monkeypatch: pytest.MonkeyPatch, wrap: Callable[[fit.Phase, fit.Model], fit.Phase]
) -> None:
    """Let `wrap` replace each phase as the training makes it."""
    for name, make_phase in fit.PHASES.items():

        def make(
            problem: Any, model: Any, rows: Any, settings: Any, make_phase: Any = make_phase
        ) -> fit.Phase:
            return wrap(make_phase(problem, model, rows, settings), model)

        monkeypatch.setitem(fit.PHASES, name, make)


def test_every_parameter_has_its_own_rate_and_decay(
    filtered: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decay is for the matrices of encoder and head; vectors and the label table have none."""
    found: dict[str, dict[str, tuple[float, float]]] = {}

    def look(phase: fit.Phase, model: fit.Model) -> fit.Phase:
        of = {id(p): (g["lr"], g["weight_decay"]) for g in phase.groups for p in g["params"]}
        found[phase.name] = {n: of[id(p)] for n, p in model.named_parameters() if id(p) in of}
        return phase

    watched_phases(monkeypatch, look)
    rates = {"head_lr": 0.01, "residual_lr": 0.02, "bias_lr": 0.03, "finetune_lr": 0.04}
    settings = train_settings(
        filtered, tiny_encoder, tmp_path / "run", weight_decay=0.5, **BASES["plain"], **rates
    )
    train.train(settings)
    table = {
        "encoder.head.weight": (0.01, 0.5),
        "table.residual": (0.02, 0.0),
        "table.bias": (0.03, 0.0),
    }
    assert found["head"] == table
    layer = {
        f"encoder.transformer.{name}": (0.04, 0.5 if tensor.ndim == 2 else 0.0)
        for name, tensor in load_file(tiny_encoder / "model.safetensors").items()
        if "layer.1." in name
    }
    assert {wd for _, wd in layer.values()} == {0.0, 0.5}
    assert found["finetune"] == layer | {"encoder.head.weight": (0.04, 0.5)}


@pytest.mark.parametrize("dropout", [0.3, 0.0])
def test_dropout_is_active_while_fine_tuning(
    filtered: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dropout: float,
) -> None:
    """Each step is taken twice: embeddings differ with dropout, and only with it."""
    encoder = Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))
    content = json.loads((encoder / "config.json").read_text())
    content |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    (encoder / "config.json").write_text(json.dumps(content))
    plain = losses.decoupled_softmax
    passes: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watch(points: torch.Tensor, labels: torch.Tensor, *rest: Any, **options: Any) -> Any:
        passes.append((points.detach().clone(), labels.detach().clone()))
        return plain(points, labels, *rest, **options)

    def twice(phase: fit.Phase, model: fit.Model) -> fit.Phase:
        def loss(rows: Any, epoch: int) -> torch.Tensor:
            phase.loss(rows, epoch)
            return phase.loss(rows, epoch)

        return replace(phase, loss=loss)

    monkeypatch.setattr(losses, "decoupled_softmax", watch)
    watched_phases(monkeypatch, twice)
    # The second epoch comes after a validation, which switches dropout off.
    train.train(
        train_settings(
            *(filtered, encoder, tmp_path / "run"), head_epochs=0, finetune_epochs=2, refit=False
        )
    )
    assert len(passes) >= 8
    for first, second in zip(passes[::2], passes[1::2], strict=True):
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b) == (dropout == 0)


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
    (["--ci", "50"], []),
    (["--compare", "other.npz"], []),
    (["--groups", "groups.txt"], ["--ci", "50"]),
    (["--seed", "3"], ["--ci", "50"]),
]
METRIC_SWITCHES = {"--help", "--threads", "--json", "--csv", "--quiet", "--debug"}


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
        {name: content.get(name) for name in ("metrics", "groups", "intervals", "comparison")}
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
