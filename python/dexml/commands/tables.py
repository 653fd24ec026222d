"""Tables as data sets: the folder in the LF layout that a table becomes."""

from __future__ import annotations

import os

from dexml import console, data
from dexml.train import TrainSettings
from dexml.train.folder import data_beside, may_replace_data
from dexml.train.settings import READING, reading_option, usual


def with_folder(settings: TrainSettings) -> TrainSettings:
    """Return settings whose data set is a folder: of a table, ``RUN.data``, made beside the run.

    Raises:
        ValueError: The table cannot be read; the message names file, row and column.
        FileNotFoundError: There is no such table.
        FileExistsError: ``RUN.data`` holds something else.
    """
    table = settings.data_dir
    if not data.is_table(table):
        _refuse_options(settings)
        return settings
    if settings.plan or settings.plan_json or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        console.usage_error(
            f"{table}: --plan and several processes need a folder; make one: "
            f"python -m dexml.data from-table {table} FOLDER"
        )
    folder = data_beside(settings.out)
    made = data.folder_from_table(
        folder,
        table,
        settings.test,
        settings.labels,
        columns=data.Columns(
            settings.text_column, settings.label_column, settings.separator, settings.split_column
        ),
        anew=may_replace_data(settings),
    )
    if made and not settings.quiet:
        console.say(f"{table}: written as a data set, {folder}")
    return settings.model_copy(
        update={"data_dir": folder, **{name: usual(name) for name in READING}}
    )


def _refuse_options(settings: TrainSettings) -> None:
    """Options that say how a table is read mean nothing for a folder."""
    if (name := reading_option(settings)) is not None:
        option = "--" + name.replace("_", "-")
        console.usage_error(f"{option} is for a table; {settings.data_dir} is none")
