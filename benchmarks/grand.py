"""What `grand` costs beside a plain forward+backward pass: time and peak memory, as a table.

    python benchmarks/grand.py [--rounds 7] [--only resnet18] [--others] [--device cpu]

Times are pairwise: in one process the passes alternate, and each figure is the median over rounds of the ratio to the
plain pass just before it. A plain pass is the mean cross-entropy's forward and backward into all weights, as training
does it, and once more in eval mode (without dropout and batch statistics). `--others` times per-example gradients by
`torch.func` and by a loop as well. Memory is the growth of the peak resident set over a warm process (on a GPU, of what
PyTorch has allocated there), each measured in a process of its own. All in whole float32, which `grand` computes in.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import datadiet
from datadiet.gradients import grand
from datadiet.models import build
from datadiet.numerics import exact


class Encoder(nn.Module):
    """Four transformer encoder layers of width 256 on 128 tokens, averaged into ten logits."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True, norm_first=False)
        self.body = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(1))


def case(name: str, batch: int, device: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    if name == "encoder":
        model, x = Encoder(), torch.randn(batch, 128, 256)
    else:
        model, x = build(name, input_shape=(3, 32, 32), classes=10), torch.randn(batch, 3, 32, 32)
    return model.to(device), x.to(device), torch.randint(0, 10, (batch,)).to(device)


CASES = (
    ("resnet18", 32), ("resnet18", 64), ("resnet18", 128), ("resnet20", 32), ("resnet20", 64), ("resnet20", 128),
    ("encoder", 16), ("encoder", 32),
)  # fmt: skip
MEMORY_CASES = (("resnet18", 64), ("resnet20", 128), ("encoder", 32))


def plain(model: nn.Module, x: Tensor, y: Tensor, training: bool) -> None:
    model.train(training)
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(x), y).backward()


def by_vmap(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Per-example gradients by torch.func, in chunks that keep 2 GB."""
    model.eval()
    weights = {n: p.detach() for n, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(w: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, (w, buffers), (x[None],)), y[None])

    room = max(1, 2**29 // sum(w.numel() for w in weights.values()))
    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), chunk_size=room)
    parts = [
        sum(g.flatten(1).square().sum(1) for g in grads(weights, a, b).values())
        for a, b in zip(x.split(room), y.split(room), strict=True)
    ]
    return torch.cat(parts).sqrt()


def by_loop(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model.eval()
    weights = list(model.parameters())
    norms = []
    for i in range(len(y)):
        grads = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), weights)
        norms.append(torch.stack([g.square().sum() for g in grads]).sum().sqrt())
    return torch.stack(norms)


def in_batch(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """By plain differentiation of one example's loss after another, all from one forward pass."""
    model.eval()
    weights = list(model.parameters())
    losses = F.cross_entropy(model(x), y, reduction="none")
    each = [torch.autograd.grad(loss, weights, retain_graph=True) for loss in losses]
    return torch.stack([torch.stack([g.square().sum() for g in grads]).sum().sqrt() for grads in each])


def timed(function: Callable[[], object], clock: Callable[[], float], device: str) -> float:
    start = clock()
    function()
    finish(device)
    return clock() - start


def finish(device: str) -> None:
    """Wait for what a GPU was given to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def times(name: str, batch: int, rounds: int, others: bool, clock: Callable[[], float], device: str) -> str:
    model, x, y = case(name, batch, device)
    ways: dict[str, Callable[[], object]] = {
        "train": lambda: plain(model, x, y, True),
        "eval": lambda: plain(model, x, y, False),
        "grand": lambda: grand(model, x, y),
    }
    if others:
        ways["vmap"] = lambda: by_vmap(model, x, y)
        ways["loop"] = lambda: by_loop(model, x, y)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, function in ways.items():
            seconds = timed(function, clock, device)
            if turn:  # the first round warms up
                taken[way].append(seconds)
    # BN statistics move in training mode; the norms are of the network as it then is. The same batch, since another
    # size rounds otherwise, and a unit just at its threshold then flips.
    error = float((grand(model, x[:4], y[:4]) / in_batch(model, x[:4], y[:4]) - 1).abs().max())
    middle = {way: statistics.median(seconds) for way, seconds in taken.items()}

    def ratio(way: str, base: str) -> float:
        return statistics.median(a / b for a, b in zip(taken[way], taken[base], strict=True))

    cells = [f"{middle['train'] * 1e3:.0f}", f"{middle['eval'] * 1e3:.0f}", f"{middle['grand'] * 1e3:.0f}"]
    cells += [f"**{ratio('grand', 'train'):.2f}**", f"{ratio('grand', 'eval'):.2f}", f"{error:.0e}"]
    cells += [f"{ratio(way, 'train'):.2f}" for way in ("vmap", "loop") if others]
    return f"| {name} | {batch} | {' | '.join(cells)} |"


class Peak:
    """The highest resident set while it is open, sampled every millisecond."""

    def __enter__(self) -> Peak:
        self.bytes, self.open = resident(), True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.open:
            self.bytes = max(self.bytes, resident())
            time.sleep(0.001)

    def __exit__(self, *problem: object) -> None:
        self.open = False
        self.thread.join()


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure_memory(name: str, batch: int, way: str, device: str) -> int:
    """Bytes that a pass adds to a process in which model and data are loaded and the kernels have run once."""
    model, x, y = case(name, batch, device)
    model.eval()
    run: Callable[[Tensor, Tensor], object] = (
        (lambda x, y: plain(model, x, y, False)) if way == "plain" else (lambda x, y: grand(model, x, y))
    )
    run(x[:2], y[:2])
    model.zero_grad(set_to_none=True)
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(x, y)
        finish(device)
        return torch.cuda.max_memory_allocated() - before
    before = resident()
    with Peak() as peak:
        run(x, y)
    return peak.bytes - before


def memory(name: str, batch: int, device: str) -> str:
    found = []
    for way in ("plain", "grand"):
        command = [sys.executable, __file__, "--device", device, "--memory-of", name, str(batch), way]
        runs = [int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(3)]
        found.append(statistics.median(runs))
    return f"| {name} | {batch} | {found[0] / 2**20:.0f} | {found[1] / 2**20:.0f} | **{found[1] / found[0]:.2f}** |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, for busy machines")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help="cases whose name begins so")
    parser.add_argument("--others", action="store_true", help="time torch.func and a loop too")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        name, batch, way = args.memory_of
        with exact():
            print(measure_memory(name, int(batch), way, args.device))
        return
    clock = time.process_time if args.cpu_time else time.perf_counter
    cases = [c for c in CASES if c[0].startswith(args.only or "")]
    version = getattr(datadiet, "__version__", "")
    place = f"{platform.machine()}, {args.threads} threads, {args.device}"
    print(f"datadiet {version}, torch {torch.__version__}, {place}, float32\n")
    extra = (" vmap ÷ train | loop ÷ train |", "---|---|") if args.others else ("", "")
    print(f"| network | batch | train [ms] | eval [ms] | grand [ms] | grand ÷ train | ÷ eval | error |{extra[0]}")
    print(f"|---|---|---|---|---|---|---|---|{extra[1]}")
    for name, batch in cases:
        with exact():
            print(times(name, batch, args.rounds, args.others, clock, args.device), flush=True)
    if not args.no_memory:
        print("\n| network | batch | plain [MiB] | grand [MiB] | grand ÷ plain |\n|---|---|---|---|---|")
        for name, batch in cases:
            if (name, batch) in MEMORY_CASES:
                print(memory(name, batch, args.device), flush=True)


if __name__ == "__main__":
    main()
