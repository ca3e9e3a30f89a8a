"""The dataset behind a scoring folder, loaded and treated as it was, and checked by its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datadiet.data as data_room
from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError


def reload(manifest: Mapping[str, Any], *, where: object = None, data_dir: Any = None) -> Dataset:
    """Load the dataset of a manifest again, with its label noise and validation cut.

    Raises:
        DatadietError: it was in memory only, or is no longer the same.
    """
    source = dict(manifest["source"])
    if data_dir is not None:
        source["data_dir"] = data_dir
    if source.get("source") == "memory":
        raise DatadietError(
            f"the dataset {manifest['dataset']} was in memory only",
            where=where,
            fix="hand it over from Python",
        )
    data = treated(data_room.load(**source), manifest.get("noise"), manifest.get("validation"))
    if data.fingerprint != manifest["fingerprint"]:
        raise DatadietError(
            f"{data.name} is not what was scored (fingerprint {manifest['fingerprint']}, now {data.fingerprint})",
            where=where,
            fix="restore the data, or score it again",
        )
    return data


def treated(data: Dataset, noise: Mapping[str, Any] | None, validation: Any) -> Dataset:
    """`data` with the label noise and the validation cut that a manifest names."""
    if noise is not None:
        if noise["kind"] == "given":
            raise DatadietError(
                "its labels were given from Python", where=data.name, fix="hand the dataset over from Python"
            )
        data = data.with_noise(noise["kind"], noise["fraction"], noise["seed"])
    if validation is not None:
        data = data.with_validation(validation[0], int(validation[1]))
    return data
