"""`datadiet datasets`: the datasets that have a name, and what else is read."""

from __future__ import annotations

from datadiet.cli import options as o
from datadiet.cli import output
from datadiet.data import DATASETS

OTHERS = (
    ("FOLDER", "images by class: FOLDER/<class>/*.png, or FOLDER/train/<class> and FOLDER/test/<class>"),
    ("FILE.npz", "arrays x_train, y_train, x_test, y_test, or x and y"),
    ("FILE.csv, FILE.parquet", "a table with a label column (--label)"),
    ("hf:NAME, FOLDER", "a Hugging Face dataset, by name or saved to disk (pip install 'datadiet[hf]')"),
)


def command(json: o.Json = False) -> None:
    """List the datasets that can be asked for by name, and the files that are read."""
    named = {name: (reader.__doc__ or "").strip().splitlines()[0] for name, reader in DATASETS.items()}
    if json:
        output.print_json({"what": "datasets", "named": named, "files": dict(OTHERS)})
        return
    out = output.console()
    width = max(map(len, [*named, *(name for name, _ in OTHERS)]))
    for name, doc in [*named.items(), *OTHERS]:
        out.print(f"{name:<{width}}  {doc}")
