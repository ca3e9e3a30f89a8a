"""All commands, in the order in which they are used."""

from __future__ import annotations

from typing import Annotated

import typer

from datadiet import __version__
from datadiet.cli import compare, datasets, models, run, score, select, show, train

app = typer.Typer(
    name="datadiet",
    help="Which of your training examples matter, early in training, and what happens when the rest is left out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Which of your training examples matter, early in training, and what happens when the rest is left out."""


app.command("run")(run.command)
app.command("score")(score.command)
app.command("select")(select.command)
app.command("train")(train.command)
app.command("compare")(compare.command)
app.command("show")(show.command)
app.command("datasets")(datasets.command)
app.command("models")(models.command)
