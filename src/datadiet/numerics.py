"""The numeric environment of a job: everything outside its recipe that reaches the last bits of its results.

Threads, precision, memory layout, batch size of scoring, compilation, device and instruction set change results in
the last bits, and training amplifies last bits. They are resolved once, when a job is planned, recorded in the
manifest, and applied by whoever executes it, in whatever process. Within one environment results are the same byte
for byte; results of two environments can be combined, with a warning. They are no part of a run's name.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from datadiet.errors import DatadietError, unknown
from datadiet.machine import cores

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "float32", "bfloat16")
# Multiply-adds of a training step. Below the first, autocast's conversions cost more than its products save; below the
# second, jobs of one thread side by side do more steps a second than one job on all cores.
WORTH_HALF = 4e8
WORTH_THREADS = 2e10
NARROW = ("mps",)  # kinds of devices without float64
_SWITCHES = threading.RLock()


@dataclass(frozen=True)
class Numerics:
    """One resolved environment.

    Args:
        device: "cpu", "cuda", "mps" or "cuda:1".
        threads: of this job's CPU work.
        precision: of training, "float32" or "bfloat16" (autocast).
        scoring_precision: of snapshots; float32 unless asked otherwise.
        scoring_batch: rows of a forward pass when scores are taken; the last batch is padded to it.
        channels_last: memory layout of networks on images.
        compiled: whether training runs through torch.compile.
        isa: the instruction set PyTorch found; of a GPU its name, capability and libraries.
        torch: its version.
    """

    device: str = "cpu"
    threads: int = 1
    precision: str = "float32"
    scoring_precision: str = "float32"
    scoring_batch: int = 512
    channels_last: bool = True
    compiled: bool = False
    isa: str = ""
    torch: str = ""

    def apply(self) -> None:
        """Make this process compute so. Cheap; every job calls it first, within `as_before`."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        _set_exact()
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        if torch.device(self.device).type == "cuda":
            # Sums over colliding indices (an embedding's gradient) would come in any order. Fused attention has no
            # such form. The last is read when cuBLAS is first used.
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            torch.backends.cuda.enable_flash_sdp(False)
            torch.backends.cuda.enable_mem_efficient_sdp(False)
            torch.backends.cuda.enable_cudnn_sdp(False)  # a warning would not keep it from being taken
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def autocast(self, scoring: bool = False) -> AbstractContextManager[Any]:
        wanted = self.scoring_precision if scoring else self.precision
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=wanted == "bfloat16")

    def to_json(self) -> dict[str, Any]:
        """As it is recorded: which of several GPUs it was is no part of it."""
        return {**asdict(self), "device": torch.device(self.device).type}


def widest(device: torch.device | str) -> torch.dtype:
    """The type that sums are kept in on a device: float64, which only Apple's do not have."""
    return torch.float32 if torch.device(device).type in NARROW else torch.float64


@contextmanager
def as_before() -> Iterator[None]:
    """Threads, random state, precision and determinism as they were, afterwards: the process may be the user's own.

    Within, none of the caller's autocast, inference mode and default dtype.
    """
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    flags = (cudnn.benchmark, cudnn.deterministic)
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    fused = torch.backends.cuda
    attention = (fused.flash_sdp_enabled(), fused.mem_efficient_sdp_enabled(), fused.cudnn_sdp_enabled())
    # To ask a GPU that nobody uses for its random state would start it; it is seeded as the CPU is.
    started = torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count()) if started else []
    try:
        with _precision_kept(), usual(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        if not started and torch.cuda.is_available():
            torch.cuda.manual_seed_all(torch.initial_seed())
        cudnn.benchmark, cudnn.deterministic = flags
        if torch.are_deterministic_algorithms_enabled() != strict:  # to set it imports the compiler, a second's work
            torch.use_deterministic_algorithms(strict, warn_only=warn)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        fused.enable_flash_sdp(attention[0])
        fused.enable_mem_efficient_sdp(attention[1])
        fused.enable_cudnn_sdp(attention[2])
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def usual() -> Iterator[None]:
    """What a process starts with: gradients are taken, and in float32 where nothing else is said.

    A caller's autocast would reach the products of our backward passes, and its results stay in the store as float32.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as stack:
            for kind in ("cpu", "cuda"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def exact() -> Iterator[None]:
    """Products of float32 in float32 for the block, whatever the process allows otherwise.

    By default PyTorch's convolutions on a GPU round to TensorFloat-32, which keeps three digits; matrix products do so,
    and on some CPUs round to bfloat16, where the user allowed it. The switches are the process's: one thread at a time.
    """
    with _SWITCHES, _precision_kept():
        _set_exact()
        yield


def _set_exact() -> None:
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for place in _places():  # what the two above leave where it was set by the newer switches
        if place.fp32_precision not in ("none", "ieee"):
            place.fp32_precision = "ieee"


def _places() -> list[Any]:
    """The switches for float32 products that newer PyTorch has, one an operation and backend."""
    backends = torch.backends
    found = [(backends.cudnn, "conv"), (backends.cudnn, "rnn"), (backends.cuda, "matmul")]
    found += [(backends.mkldnn, name) for name in ("matmul", "conv", "rnn")]
    if not hasattr(backends, "fp32_precision"):
        return []
    return [getattr(owner, name) for owner, name in found if hasattr(owner, name)]


@contextmanager
def _precision_kept() -> Iterator[None]:
    """The older and the newer switches as they were; either may refuse to be read after the other was used."""
    older: list[Any] = []
    for read in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
        try:
            older.append(read())
        except RuntimeError:
            older.append(None)
    newer = [(place, place.fp32_precision) for place in _places()]
    try:
        yield
    finally:
        if older[0] is not None:
            torch.set_float32_matmul_precision(older[0])
        if older[1] is not None:
            torch.backends.cudnn.allow_tf32 = older[1]
        for place, value in newer:
            if place.fp32_precision != value:
                place.fp32_precision = value


def resolve(
    *,
    device: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    compile: str = "auto",
    work: float = 0.0,
    steps: int = 0,
    scoring_batch: int | None = None,
) -> Numerics:
    """The environment for jobs whose training step costs `work` multiply-adds, on this machine.

    Args:
        threads: None takes one for small networks (several jobs then share the cores) and all cores for others.
        compile: "on", "off", or "auto": where a compiler is there and enough steps of work repay its minutes.
        work: multiply-adds of forward and backward of one batch.
        steps: steps of a run.
        scoring_batch: None takes 512, and 128 for large networks on a CPU, whose activations else hold more memory
            than training them does, for no gain in speed.
    """
    kind = pick_device(device)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS, where="--precision")
    if threads is not None and threads < 1:
        raise DatadietError(f"{threads} threads", where="--threads", fix="at least 1")
    if compile not in ("auto", "on", "off"):
        raise unknown("choice", compile, ("auto", "on", "off"), where="--compile")
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16(kind) and work > WORTH_HALF else "float32"
    if threads is None:
        # A GPU's jobs do little on the CPU, and their environment shall not depend on the number of its cores.
        threads = cores() if kind == "cpu" and work >= WORTH_THREADS else 1
    if scoring_batch is None:
        scoring_batch = 128 if kind == "cpu" and work >= WORTH_THREADS else 512
    can = can_compile(kind)
    if compile == "on" and not can:
        raise DatadietError("no C++ compiler was found", where="--compile", fix="install one, or say --compile off")
    # On a CPU compiled steps were no faster (docs/performance.md); on a GPU long runs repay the minute it takes.
    pays = kind.startswith("cuda") and work * steps > 1e15
    if compile == "auto" and pays and not can:
        log.warning("no C++ compiler was found: training runs uncompiled, and slower")
    compiled = compile == "on" or (compile == "auto" and pays and can)
    return Numerics(
        device=kind,
        threads=threads,
        precision=precision,
        scoring_batch=scoring_batch,
        compiled=compiled,
        isa=instruction_set(kind),
        torch=torch.__version__,
    )


def instruction_set(device: str) -> str:
    """What a device computes with, as far as the last bits depend on it: for a GPU its kind and libraries."""
    if torch.device(device).type != "cuda":
        return str(torch.backends.cpu.get_cpu_capability())
    major, minor = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    return f"{name} ({major}.{minor}), CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


def pick_device(name: str = "auto") -> str:
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        wanted = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, ("auto", "cpu", "cuda", "mps"), where="--device") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = wanted.type
    if not there.get(kind, False):
        raise DatadietError(f"this machine has no {kind} device", where="--device", fix="say --device cpu")
    if kind == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise DatadietError(f"{name} of {count} device{'s' * (count != 1)}", where="--device", fix="counted from 0")
    return name


@cache
def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 products run in hardware there; without, autocast is slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device != "cpu":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@cache
def can_compile(device: str) -> bool:
    """Whether torch.compile finds the compiler it needs; its GPU code needs one too, for the launchers, and Triton."""
    if device.startswith("cuda") and find_spec("triton") is None:
        return False
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name)
