"""`datadiet models`: networks, presets, scores, policies and engines, by name."""

from __future__ import annotations

from dataclasses import asdict

from datadiet import models
from datadiet.cli import options as o
from datadiet.cli import output
from datadiet.engines import ENGINES
from datadiet.scores import SCORES
from datadiet.selection import POLICIES
from datadiet.training.presets import PRESETS


def command(json: o.Json = False) -> None:
    """List networks and presets (and the scores, policies and engines that flags name)."""
    networks = models.describe()
    presets = {name: preset.doc for name, preset in PRESETS.items()}
    scores = {name: entry.doc for name, entry in SCORES.items()}
    policies = {name: (policy.__doc__ or "").strip().splitlines()[0] for name, policy in POLICIES.items()}
    if json:
        output.print_json(
            {
                "what": "models",
                "models": [asdict(network) for network in networks],
                "presets": presets,
                "scores": scores,
                "policies": policies,
                "engines": ENGINES.names(),
            }
        )
        return
    out = output.console()
    out.print("Networks (parameters for 3×32×32 inputs, 10 classes):")
    for network in networks:
        out.print(f"  {network.name:<16} {network.parameters or 0:>11,}  {network.summary}")
    for title, entries in (("Presets", presets), ("Scores", scores), ("Policies", policies)):
        out.print(f"{title}:")
        for name, doc in entries.items():
            out.print(f"  {name:<16} {doc}")
    out.print(f"Engines: {', '.join(ENGINES)}")
