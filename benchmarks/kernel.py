"""What `ntk` costs: the kernel of some examples, its seconds and its memory, as a table.

    python benchmarks/kernel.py [--threads 2] [--only resnet18] [--device cpu]

Each kernel is computed in a fresh process, once after a warm-up on two examples; the peak is that of the whole
process, with Python, PyTorch and the network; on a GPU, of what PyTorch allocated there. The error is the largest
difference to inner products of float64 gradients of three examples, one logit at a time, as a share of the largest of
them.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor, nn

import datadiet
from datadiet.data import load
from datadiet.gradients.gram import ntk
from datadiet.models import build

CASES = (("small-cnn on digits", 100), ("resnet8", 100), ("resnet20", 100), ("resnet18", 50), ("resnet18", 100))


def case(name: str, count: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if name.endswith("digits"):
        x = torch.as_tensor(load("digits").train.inputs[:count]).movedim(-1, 1) / 16  # (m, 1, 8, 8)
        model = build("small-cnn", input_shape=(1, 8, 8), classes=10)
    else:
        x, model = torch.randn(count, 3, 32, 32), build(name, input_shape=(3, 32, 32), classes=10)
    for module in model.modules():
        # At initialisation batch norm in eval mode is the identity, which would spare half of what is tested.
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    return model, x


def exact(model: nn.Module, x: Tensor, chosen: list[int]) -> Tensor:
    """The kernel of a few examples by plain differentiation, in float64."""
    model = model.double().eval()
    weights = list(model.parameters())
    rows = []
    for i in chosen:
        for logit in model(x[i : i + 1].double())[0]:
            found = torch.autograd.grad(logit, weights, retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in found]))
    psi = torch.stack(rows)
    return psi @ psi.T


def measure(name: str, count: int, device: str) -> str:
    gpu = torch.device(device).type == "cuda"
    model, x = case(name, count)
    model, x = model.to(device), x.to(device)
    ntk(model, x[:2])
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    kernel = ntk(model, x)
    if gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() >> 20 if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    logits = len(kernel) // count
    chosen = [0, count // 2, count - 1]
    picked = torch.cat([torch.arange(i * logits, (i + 1) * logits) for i in chosen])
    wanted = exact(model, x, chosen)
    error = float((kernel[picked][:, picked].double() - wanted).abs().max() / wanted.abs().max())
    return f"| {name} | {count} | {logits} | **{seconds:.1f}** | {peak} | {error:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help="cases whose name begins so")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        torch.set_num_threads(args.threads)
        print(measure(args.case[0], int(args.case[1]), args.device))
        return
    version = getattr(datadiet, "__version__", "")
    place = f"{platform.machine()}, {args.threads} threads, {args.device}"
    print(f"datadiet {version}, torch {torch.__version__}, {place}, float32\n")
    print("| network | examples | logits | seconds | peak [MiB] | error |\n|---|---|---|---|---|---|")
    for name, count in CASES:
        if name.startswith(args.only or ""):
            command = [sys.executable, __file__, "--threads", str(args.threads), "--device", args.device]
            command += ["--case", name, str(count)]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            print(found.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
