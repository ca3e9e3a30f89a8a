"""All commands, in the order in which they are used; the one that is asked for is imported, the others only named."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Annotated

import typer

from datadiet import __version__
from datadiet.errors import unknown

ABOUT = "Which of your training examples matter, early in training, and what happens when the rest is left out."

# One file a command, `cli/<name>.py`. Each imports PyTorch, which `datadiet --help` should not wait for.
COMMANDS = {
    "run": "Score, select, retrain, compare, with figures.",
    "score": "Score every training example from a few short runs.",
    "select": "Choose a subset by scores, or tune a window.",
    "train": "Train once, and keep the weights.",
    "compare": "Retrain on subsets, beside full data and random ones.",
    "study": "Measure the papers' figures and claims, with verdicts.",
    "lottery": "Pre-train, then prune, rewind and train again, level by level.",
    "show": "Show scores, subsets, comparisons, or what a store holds.",
    "datasets": "List named datasets, and the files that are read.",
    "models": "List networks, presets, scores, policies and engines.",
}


def build(arguments: Sequence[str]) -> typer.Typer:
    """The application, with the command that `arguments` name."""
    app = typer.Typer(
        name="datadiet",
        help=ABOUT,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    if wanted is not None and wanted not in COMMANDS:
        raise unknown("command", wanted, COMMANDS)
    for name, about in COMMANDS.items():
        command = importlib.import_module(f"datadiet.cli.{name}").command if name == wanted else _named_only
        app.command(name, help=about)(command)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _named_only() -> None:
    """Stands for a command in the list of commands."""
