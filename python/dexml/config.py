"""Settings of the commands: a flat model for each, read from a TOML file and the command line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from dexml import console


class Settings(BaseSettings):
    """Settings that all commands share. Nothing is read from the environment."""

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
        """Take values only from the constructor."""
        return (init_settings,)


S = TypeVar("S", bound=Settings)


def parse(model: type[S], argv: list[str], prog: str) -> S:
    """Read settings from ``--config FILE.toml`` and from the command line; the latter wins.

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
    """Build settings from `values`; the first wrong one ends the command with a message."""
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
        if not name:  # an error of several settings together
            console.usage_error(message)
        console.usage_error(f"{name} = {first['input']!r}: {message[:1].lower()}{message[1:]}")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        console.usage_error(f"--config {path}: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        console.usage_error(f"{path}: {error}")
