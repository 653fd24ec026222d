"""TensorBoard and W&B get the numbers of log.jsonl; a missing package names its extra."""

import importlib
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dexml.train.track import scalars, trackers

LINE = {
    "time": 1.7e9,
    "fit": "selection",
    "stage": "heads",
    "epoch": 2,
    "step": 20,
    "steps": 40,
    "loss": 1.5,
    "lr": {"head": 1e-3, "bias": 3e-2},
    "validation": {"P@1": 0.25},
    "note": "words",
    "best": True,
}
EVENT = {"time": 1.7e9, "event": "shortlist", "recall": 0.9}
TAGS = {
    "selection/heads/loss": 1.5,
    "selection/heads/lr/head": 1e-3,
    "selection/heads/lr/bias": 3e-2,
    "selection/heads/validation/P@1": 0.25,
}


class Fake:
    """Stands for a module, its writer and its run; remembers every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> "Fake":
            self.calls.append((name, arguments, options))
            return self

        return call

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(arguments, options) for n, arguments, options in self.calls if n == name]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    found = Fake()
    for name in ("wandb", "tensorboardX"):
        module = ModuleType(name)
        module.__getattr__ = found.__getattr__  # type: ignore[method-assign]
        module.__spec__ = None
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("dexml.console.require", lambda *_: None)
    return found


def test_scalars_are_the_numbers_of_a_line_under_its_group() -> None:
    assert scalars(LINE) == TAGS
    assert scalars(EVENT) == {"shortlist/recall": 0.9}
    assert scalars({"loss": 2}) == {"training/loss": 2}


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    with trackers(tmp_path) as track:
        track(LINE)
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_every_number(tmp_path: Path, fake: Fake) -> None:
    with trackers(tmp_path, tensorboard=True) as track:
        track(LINE)
        track(EVENT)
    assert fake.of("SummaryWriter") == [((str(tmp_path / "tensorboard"),), {})]
    written = {tag: (value, options) for (tag, value), options in fake.of("add_scalar")}
    expected = {tag.replace("@", "_at_"): value for tag, value in TAGS.items()}
    assert {tag: value for tag, (value, _) in written.items()} == expected | {
        "shortlist/recall": 0.9
    }
    assert written["selection/heads/loss"][1] == {"global_step": 20, "walltime": 1.7e9}
    assert [name for name, *_ in fake.calls][-1] == "close"


def test_wandb_gets_every_number_with_the_step_of_its_group(tmp_path: Path, fake: Fake) -> None:
    arguments: dict[str, Any] = {"wandb": "xmc", "wandb_mode": "offline", "config": {"seed": 1}}
    with trackers(tmp_path / "run", **arguments) as track:
        track(LINE)
        track(LINE | {"step": 40})
        track(EVENT)
        track({"event": "words", "note": "nothing to draw"})
    (_, options), *_ = fake.of("init")
    assert options["project"] == "xmc"
    assert options["mode"] == "offline"
    assert options["config"] == {"seed": 1}
    assert options["dir"] == str(tmp_path / "run")
    assert fake.of("define_metric") == [
        (("selection/heads/step",), {}),
        (("selection/heads/*",), {"step_metric": "selection/heads/step"}),
    ]
    logged = [entry for ((entry,), _) in fake.of("log")]
    assert logged == [
        TAGS | {"selection/heads/step": 20},
        TAGS | {"selection/heads/step": 40},
        {"shortlist/recall": 0.9},
    ]
    assert fake.of("finish") == [((), {"exit_code": 0})]
    with trackers(tmp_path / "run", wandb="xmc"):
        pass
    assert fake.of("init")[1][1]["id"] == options["id"]
    assert fake.of("init")[1][1]["resume"] == "allow"
    with trackers(tmp_path / "other", wandb="xmc"):
        pass
    assert fake.of("init")[2][1]["id"] != options["id"]


def test_a_failed_training_closes_the_trackers_too(tmp_path: Path, fake: Fake) -> None:
    with (
        pytest.raises(RuntimeError, match="the loss is nan"),
        trackers(tmp_path, tensorboard=True, wandb="xmc"),
    ):
        raise RuntimeError("the loss is nan")
    assert fake.of("close") == [((), {})]
    assert fake.of("finish") == [((), {"exit_code": 1})]


@pytest.mark.parametrize(
    ("options", "module", "extra"),
    [({"tensorboard": True}, "tensorboardX", "tensorboard"), ({"wandb": "x"}, "wandb", "wandb")],
)
def test_a_missing_package_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, module: str, extra: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    message = rf"{module} is not installed; it comes with: pip install 'dexml-xmc\[{extra}\]'"
    with pytest.raises(ImportError, match=message), trackers(tmp_path, **options):
        pass
    assert not list(tmp_path.iterdir())


def test_an_unknown_wandb_mode_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="wandb_mode = 'of'; expected one of online, offline"),
        trackers(tmp_path, wandb="x", wandb_mode="of"),
    ):
        pass


def test_event_files_of_the_real_writer_hold_the_values(tmp_path: Path) -> None:
    """A file is a row of records: length, checksum, event, checksum."""
    pytest.importorskip("tensorboardX")
    event_type = importlib.import_module("tensorboardX.proto.event_pb2").Event
    with trackers(tmp_path, tensorboard=True) as track:
        track(LINE)
        track(LINE | {"step": 40, "loss": 0.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    content, found = path.read_bytes(), {}
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        event = event_type.FromString(content[12 : 12 + size])
        content = content[16 + size :]
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
    assert found["selection/heads/loss", 20] == 1.5
    assert found["selection/heads/loss", 40] == 0.5
    assert found["selection/heads/validation/P_at_1", 20] == 0.25
