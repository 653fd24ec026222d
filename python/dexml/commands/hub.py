"""The command: python -m dexml.hub push RUN OWNER/NAME | pull OWNER/NAME RUN."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from dexml import config, console
from dexml.config import Settings
from dexml.hub import pull, push


class HubSettings(Settings):
    """Push a run to the Hugging Face hub, or pull one; log in with hf auth login."""

    action: CliPositionalArg[Literal["push", "pull"]] = Field(description="push or pull")
    source: CliPositionalArg[str] = Field(description="push: the run; pull: OWNER/NAME")
    target: CliPositionalArg[str] = Field(description="push: OWNER/NAME; pull: the run to make")
    public: bool = Field(False, description="push: a repository that is made is public")
    revision: str = Field("", description="branch; pull: also a tag or a commit")
    overwrite: bool = Field(False, description="pull: replace a run that is there")


def main(argv: list[str]) -> None:
    """Run ``python -m dexml.hub``."""
    settings = config.parse(HubSettings, argv, "python -m dexml.hub")
    revision = settings.revision or None
    if settings.action == "push":
        if settings.overwrite:
            console.usage_error("--overwrite is for pull; a push is a commit of its own")
        url = push(settings.source, settings.target, private=not settings.public, revision=revision)
        print(url)
        return
    if settings.public:
        console.usage_error("--public is for push")
    folder = pull(settings.source, settings.target, revision=revision, overwrite=settings.overwrite)
    if not settings.quiet:
        console.say(f"{folder}: python -m dexml.predict {folder} TEXTS.txt")
