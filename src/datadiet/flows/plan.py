"""Planning: which recipe, which numeric environment, what a network costs, and everything that can be refused early."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, fields
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from datadiet import models
from datadiet.convolutions import Seen, overruns
from datadiet.data.batches import Batches
from datadiet.data.dataset import Dataset
from datadiet.engines import ENGINES
from datadiet.errors import DatadietError, unknown
from datadiet.flows.arguments import whole
from datadiet.flows.network import network_of
from datadiet.flows.tasks import RESUME_EVERY, RunTask
from datadiet.machine import expanded
from datadiet.numerics import Numerics, resolve, usual
from datadiet.scores import SCORES
from datadiet.seeds import digest
from datadiet.steps import Step
from datadiet.store import Store
from datadiet.store.files import Damaged, read_json, write_json
from datadiet.training.checkpoint import whole_state
from datadiet.training.presets import PRESETS, Preset
from datadiet.training.recipe import Recipe, read_settings
from datadiet.training.schedule import unreached

if TYPE_CHECKING:
    from datadiet.flows.spawning import PathTask

log = logging.getLogger(__name__)

DEFAULT_STORE = "datadiet-runs"
CODE_SCHEME = 2  # of what identifies code, which `source.code_of` says


@dataclass(frozen=True)
class Setup:
    """Where and how jobs execute; nothing in it changes what a run is.

    Args:
        store: folder of the runs, shared by all commands of a project; default DATADIET_STORE of the environment, else
            ./datadiet-runs.
        engine: "inline", "processes", or "auto": processes where several small jobs can share the cores.
        workers: how many jobs run at a time; default as many as the cores can serve.
        device: "auto", "cpu", "cuda", "mps".
        threads: of one job; default 1 for small networks, else all cores.
        precision: "auto", "float32", "bfloat16" (training only; scores are taken in float32).
        compile: "auto", "on", "off".
        resume_every: seconds of training between two states that a killed run goes on from.
    """

    store: str | Path = field(default_factory=lambda: os.environ.get("DATADIET_STORE") or DEFAULT_STORE)
    engine: str = "auto"
    workers: int | None = None
    device: str = "auto"
    threads: int | None = None
    precision: str = "auto"
    compile: str = "auto"
    resume_every: float = RESUME_EVERY

    def __post_init__(self) -> None:
        if self.store == "" or str(self.store).startswith("~"):
            object.__setattr__(self, "store", expanded(self.store))
        if self.engine != "auto":
            ENGINES.get(self.engine, where="--engine")
        if self.workers is not None:
            whole(self.workers, "workers", "--workers")
        if self.threads is not None:
            whole(self.threads, "threads", "--threads")
        if not self.resume_every > 0:
            raise DatadietError(f"resume_every is {self.resume_every}", where="setup", fix="seconds, more than 0")

    @classmethod
    def of(cls, given: Setup | Mapping[str, Any] | None) -> Setup:
        """A Setup from one, from a mapping of its arguments, or None for the default; an unknown name is an error."""
        if given is None:
            return cls()
        if isinstance(given, Setup):
            return given
        if not isinstance(given, Mapping):
            raise DatadietError(f"{given!r} is no setup", where="setup", fix='give a Setup, or {"store": …}')
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise unknown("setting", name, known, where="setup")
        return cls(**given)


@dataclass(frozen=True)
class Network:
    """What a recipe's network is on a dataset: its weights, the bytes of its state, and a forward pass's work."""

    parameters: int
    state_bytes: int
    work: float  # multiply-adds of a forward pass of one example
    weights: str | None  # fingerprint of the initial weights, for a user's own model
    code: str | None = None  # and of its code
    narrow: bool = False  # whether it has convolutions that take care on some CPUs (`convolutions.py`)


def folder_for(data: Dataset, ending: str = "") -> Path:
    """Where results of a dataset go when nobody says: out/digits, out/digits-permute0.1-compare."""
    noise = "" if data.noise is None else f"-{data.noise.kind}{data.noise.fraction:g}"
    return Path("out") / f"{data.name}{noise}{ending}"


# The papers' networks on 32×32 colour images are trained as the papers train them, unless something else is asked for.
PAPERS = {"resnet18": "dd", "resnet50": "dd", "resnet20": "lt", "resnet32": "lt", "resnet56": "lt"}


def preset_for(data: Dataset, name: str | None = None, model: str | None = None) -> tuple[str, Preset]:
    """The preset of a name; else the papers' where `model` is theirs, else the one for small machines that fits."""
    if name is not None:
        return name, PRESETS.get(name, where="--preset")
    if data.kind == "tokens":
        return "none", Preset(Recipe(), "no preset: the plain recipe", at=("4ep",))
    if data.kind == "table":
        name = "table-small"
    elif data.name == "digits":
        name = "digits"
    elif data.input_shape == (3, 32, 32):
        paper = PAPERS.get(model or "")
        own = f"{paper}-{data.name}"
        name = "cifar10-small" if paper is None else own if own in PRESETS else f"{paper}-cifar10"
    else:
        name = "images-small"
    return name, PRESETS.get(name)


def defaults_for(
    data: Dataset,
    preset: str | None = None,
    model: str | None = None,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
) -> tuple[str, Preset]:
    """The preset that the arguments of a flow lead to."""
    settings = {} if recipe is None or isinstance(recipe, Recipe) else _settings(recipe)
    return preset_for(data, preset, model or settings.get("model"))


def _settings(recipe: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    return dict(recipe) if isinstance(recipe, Mapping) else read_settings(recipe)


def recipe_for(
    data: Dataset,
    *,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    preset: str | None = None,
    model: str | None = None,
    steps: str | None = None,
) -> Recipe:
    """The recipe that the arguments say: the preset's, changed by the file or mapping, changed by `model`, `steps`."""
    if isinstance(recipe, Recipe):
        out = recipe if model is None else recipe.with_(model=model)
    else:
        settings = {} if recipe is None else _settings(recipe)
        if model is not None:
            if settings.get("model", model) != model:
                settings.pop("model_args", None)  # they are the other network's
            settings["model"] = model
        if data.kind == "tokens" and "model" not in settings:
            raise DatadietError(
                "no network of ours takes token inputs", where=data.name, fix="say --model package.module:function"
            )
        out = Recipe.from_json(settings, base=defaults_for(data, preset, model, recipe)[1].recipe)
    if steps is not None:
        out = out.with_(steps=steps)
    for line in unreached(out, len(data)):
        log.warning("%s", line)
    if data.kind != "image" and (out.pad or out.flip):
        out = out.with_(pad=0, flip=False)
    return out


def marks_for(recipe: Recipe, data: Dataset, at: Sequence[str | int | Step]) -> list[int]:
    """Steps at which scores are taken, ascending; each must lie within the run."""
    horizon, per_epoch = recipe.horizon(len(data)), recipe.steps_per_epoch(len(data))
    out = set()
    for text in at:
        step = Step.parse(text, where="--at").resolve(per_epoch)
        if step > horizon:
            raise DatadietError(
                f"{text} is step {step:,}, and the run has {horizon:,} ({recipe.steps})",
                where="--at",
                fix="take scores earlier, or lengthen the run with --steps",
            )
        out.add(step)
    if not out:
        raise DatadietError("no step is given at which scores are taken", where="--at", fix='say "4ep"')
    return sorted(out)


def check_scores(names: Sequence[str], marks: Sequence[int]) -> list[str]:
    """The scores, each known and defined at one of the steps at least."""
    for name in names:
        entry = SCORES.get(name, where="--score")
        if entry.needs == "trajectory" and not any(marks):
            raise DatadietError(
                f"{name} follows training and is undefined at step 0", where="--score", fix="take it later"
            )
    if not names:
        raise DatadietError("no score is asked for", where="--score", fix=f"one of {', '.join(SCORES)}")
    return list(dict.fromkeys(names))


def check_seed(seed: int, *, where: str = "--seed") -> int:
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise DatadietError(f"the seed {seed!r}", where=where, fix="it must be a whole number, 0 or more")
    return int(seed)  # numpy's are not JSON


@usual()
def inspect(recipe: Recipe, data: Dataset, smallest: int | None = None) -> Network:
    """Build the network once, run two examples through it, and count. Refuses one that does not fit the data.

    Args:
        smallest: how many examples the smallest subset has that will be trained on.
    """
    model = network_of(recipe, data)
    weights = None if models.is_own(recipe.model) else models.weights_fingerprint(model)  # before anything runs it
    batches = Batches(data.train, data, pad=recipe.pad, pad_mode=recipe.pad_mode)
    sample = batches.inputs(torch.arange(min(2, len(data)), device="cpu"))
    with Seen() as seen:
        models.check_output(model, sample, len(data.classes))
    if recipe.batch_size == 1 or smallest == 1:
        models.check_single(model, sample)
    parameters = sum(p.numel() for p in model.parameters())
    tensors = [value for value in whole_state(model).values() if isinstance(value, torch.Tensor)]
    state = sum(t.numel() * t.element_size() for t in tensors)
    if weights is None:
        return Network(parameters, state, _work(model, sample), None, narrow=seen.narrow)
    # One that was used may know of caches that are gone again.
    work = _work(network_of(recipe, data), sample)
    # Modules that are imported at the first call are there by now.
    code = models.code_fingerprint(recipe.model, model)
    return Network(parameters, state, work, weights, code, seen.narrow)


def environment(recipe: Recipe, data: Dataset, network: Network, setup: Setup) -> Numerics:
    """The numeric environment of every job of this recipe on this data."""
    numerics = resolve(
        device=setup.device,
        threads=setup.threads,
        precision=setup.precision,
        compile=setup.compile,
        work=3 * network.work * recipe.batch_size,
        steps=recipe.horizon(len(data)),
    )
    if numerics.compiled and network.narrow and numerics.device == "cpu" and overruns():
        raise DatadietError(
            f"on this CPU PyTorch compiles the strided 1×1 convolutions of few channels in {recipe.model} wrongly",
            where="--compile",
            fix="say --compile off",
        )
    return numerics


def check_code(recipe: Recipe, network: Network, store: Store) -> None:
    """Refuse a user's model whose code changed, though its initial weights did not, since its runs were made."""
    if network.weights is None:
        return
    name = f"{digest(recipe.model):016x}-{network.weights}.json"
    # Twice, so that the loss of one file does not let results of other code pass for those of this.
    files = [store.root / folder / name for folder in ("models", "models.copy")]
    notes = [_note(file) for file in files]
    found: dict[str, Any] = next((note for note in notes if note), {})
    mine = {"model": recipe.model, "code": network.code, "scheme": CODE_SCHEME}
    # Noted in another way, which cannot be compared; or the code failed before its first result, and was mended.
    other = bool(found) and found.get("scheme") != CODE_SCHEME
    if mine != found and not other and _has_runs(store, recipe.model, network.weights):
        if found:
            raise DatadietError(
                f"the code of {recipe.model} changed since its runs in this store were made",
                where=store.root,
                fix="use another --store for the new code, or take the change back",
            )
        raise DatadietError(
            f"of which code of {recipe.model} its runs are is not known any more ({name} is lost)",
            where=store.root,
            fix="use another --store",
        )
    with nullcontext() if mine != found else suppress(DatadietError):  # a store to read only has what it needs
        for file, note in zip(files, notes, strict=True):
            if note != mine:
                write_json(file, mine)


def _note(file: Path) -> dict[str, Any] | None:
    """What a note says; None where it is lost."""
    if not file.exists():
        return None
    try:
        return read_json(file)
    except Damaged as error:
        log.warning("%s %s, redoing it", file, error.what)
        return None


def _has_runs(store: Store, model: str, weights: str) -> bool:
    """Whether there are runs of the model, or such that tell no more of what they are."""
    for folder in store.root.glob("??/*"):
        if not re.fullmatch("[0-9a-f]{8,}", folder.name):
            continue
        spec = store.run(folder.name).spec()
        if spec is None and any(folder.rglob("*.safetensors")):
            return True
        if spec and (spec.get("recipe", {}).get("model"), spec.get("weights")) == (model, weights):
            return True
    return False


def _work(model: torch.nn.Module, sample: Any) -> float:
    """Multiply-adds of a forward pass of one example."""
    from torch.utils.flop_counter import FlopCounterMode

    was = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**sample) if isinstance(sample, dict) else model(sample)
    finally:
        model.train(was)
    size = len(next(iter(sample.values()))) if isinstance(sample, dict) else len(sample)
    return counter.get_total_flops() / 2 / size


class Plan(Protocol):
    """Runs to be made on one dataset by one recipe: a ScorePlan, a ComparePlan, or `Runs`."""

    @property
    def data(self) -> Dataset: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def network(self) -> Network: ...
    @property
    def numerics(self) -> Numerics: ...
    @property
    def setup(self) -> Setup: ...
    @property
    def tasks(self) -> list[tuple[str, RunTask]]: ...


@dataclass(frozen=True)
class Runs:
    """A plan of one's own: any tasks, beside those of scoring and comparing.

    Args:
        paths: (label, task) of the lines that are walked between these networks when they are trained.
    """

    data: Dataset
    recipe: Recipe
    network: Network
    numerics: Numerics
    setup: Setup
    tasks: list[tuple[str, RunTask]]
    paths: Sequence[tuple[str, PathTask]] = ()
