"""The numeric environment, resolved on machines that this one is not."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from datadiet import numerics
from datadiet.errors import DatadietError
from datadiet.numerics import Numerics, resolve


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine: `machine(cuda=2, capability=(8, 0), bf16=True, compiler=True, cores=8)`."""

    def pretend(cuda=0, mps=False, capability=(8, 0), bf16=False, compiler=True, triton=True, cores=8, name="H1"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90000)
        monkeypatch.setattr(numerics, "find_spec", lambda package: object() if triton else None)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(numerics, "cores", lambda: cores)
        monkeypatch.setattr(numerics.shutil, "which", lambda name: f"/usr/bin/{name}" if compiler else None)
        flags = "flags : avx512f avx512_bf16" if bf16 else "flags : avx2"
        monkeypatch.setattr(numerics.Path, "read_text", lambda self: flags)
        numerics.has_bfloat16.cache_clear()
        numerics.can_compile.cache_clear()

    yield pretend
    numerics.has_bfloat16.cache_clear()
    numerics.can_compile.cache_clear()


@pytest.mark.parametrize(
    ("hardware", "device"),
    [({"cuda": 1}, "cuda"), ({"mps": True}, "mps"), ({}, "cpu"), ({"cuda": 1, "mps": True}, "cuda")],
)
def test_the_best_device_there_is_is_taken(machine, hardware, device):
    machine(**hardware)
    assert resolve().device == device


def test_a_small_network_on_the_cpu_has_one_thread_a_job_and_float32(machine):
    machine(bf16=True)
    small = resolve(work=1e8, steps=1000)
    assert (small.threads, small.precision, small.compiled) == (1, "float32", False)


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_a_large_network_takes_all_cores_and_bfloat16_where_hardware_has_it(machine, bf16, precision):
    machine(bf16=bf16)
    large = resolve(work=1e11, steps=1000)
    assert (large.threads, large.precision, large.scoring_precision) == (8, precision, "float32")


@pytest.mark.parametrize(("capability", "precision"), [((8, 0), "bfloat16"), ((7, 5), "float32")])
def test_a_gpu_trains_in_bfloat16_from_capability_8_on(machine, capability, precision):
    machine(cuda=1, capability=capability)
    assert resolve(work=1e11).precision == precision


def test_a_large_network_on_a_cpu_is_scored_in_batches_as_small_as_those_of_training(machine):
    machine()
    assert (resolve(work=1e9).scoring_batch, resolve(work=1e11).scoring_batch) == (512, 128)
    machine(cuda=1)
    assert resolve(work=1e11).scoring_batch == 512


def test_what_is_asked_for_is_what_is_taken(machine):
    machine(cuda=2)
    asked = resolve(device="cuda:1", threads=3, precision="float32", compile="on", work=1e12, scoring_batch=64)
    assert (asked.device, asked.threads, asked.precision, asked.compiled) == ("cuda:1", 3, "float32", True)
    assert asked.scoring_batch == 64
    assert resolve(compile="off", work=1e12, steps=10**6).compiled is False


def test_only_much_work_on_a_gpu_is_worth_a_compilation(machine):
    machine(cuda=1)
    assert resolve(work=1e11, steps=78_000).compiled
    assert not resolve(work=1e9, steps=100).compiled
    machine()
    assert not resolve(work=1e11, steps=78_000).compiled


def test_without_a_compiler_training_is_eager_and_that_is_said(machine, caplog):
    machine(cuda=1, compiler=False)
    assert not resolve(work=1e11, steps=78_000).compiled
    assert "no C++ compiler" in caplog.text


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"device": "cuda"}, "--device: this machine has no cuda device; say --device cpu"),
        ({"device": "mps"}, "--device: this machine has no mps device"),
        ({"device": "meta"}, "--device: this machine has no meta device"),
        ({"device": "gpu"}, "--device: unknown device 'gpu'"),
        ({"precision": "float16"}, "--precision: unknown precision 'float16'; did you mean bfloat16"),
        ({"threads": 0}, "--threads: 0 threads; at least 1"),
        ({"compile": "maybe"}, "--compile: unknown choice 'maybe'"),
        ({"compile": "on"}, "--compile: no C.. compiler was found"),
    ],
)
def test_what_this_machine_cannot_do_is_said_in_words(machine, asked, message):
    machine(compiler=False)
    with pytest.raises(DatadietError, match=message):
        resolve(**asked)


def test_a_gpu_beyond_the_last_is_refused_when_the_job_is_planned(machine):
    machine(cuda=2)
    with pytest.raises(DatadietError, match="--device: cuda:2 of 2 devices"):
        resolve(device="cuda:2")


def test_the_environment_names_the_gpu_and_not_which_of_several_or_the_cores_beside_it(machine):
    def recorded(device="cuda", **hardware):
        machine(cuda=2, **hardware)
        return resolve(device=device, work=1e11).to_json()

    one = recorded()
    assert one["isa"].startswith("H1 (8.0), CUDA ")
    assert one == recorded("cuda:1") == recorded(cores=64)
    assert one != recorded(name="H2")
    assert one != recorded(capability=(9, 0))


def test_a_gpu_compiles_where_triton_is(machine):
    for triton in (True, False):
        machine(cuda=1, triton=triton)
        assert resolve(work=1e12, steps=10_000).compiled == triton


SWITCHES = """
import torch
from datadiet.numerics import Numerics, as_before, exact

places = {f"{b}.{o}": (getattr(torch.backends, b), o) for b, o in (
    ("cudnn", "conv"), ("cudnn", "rnn"), ("cuda", "matmul"), ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn")
) if hasattr(getattr(torch.backends, b), o) and hasattr(torch.backends, "fp32_precision")}

def seen():
    found = {name: getattr(owner, what).fp32_precision for name, (owner, what) in places.items()}
    older = {"matmul": torch.get_float32_matmul_precision, "cudnn": lambda: torch.backends.cudnn.allow_tf32}
    for name, read in older.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "mixed"
    return found

def set_new(name, value):
    if name in places:
        getattr(*places[name]).fp32_precision = value

def everywhere(value):
    if places:
        torch.backends.fp32_precision = value

for change in (
    lambda: None, lambda: torch.set_float32_matmul_precision("high"),
    lambda: torch.set_float32_matmul_precision("medium"), lambda: set_new("cuda.matmul", "tf32"),
    lambda: set_new("cudnn.conv", "ieee"), lambda: everywhere("tf32"),
):
    change()
    before = seen()
    for around in (exact, as_before):
        with around():
            if around is as_before:
                Numerics().apply()
            inside = seen()
            assert {v for k, v in inside.items() if "." in k} <= {"none", "ieee"}, inside
            assert inside["matmul"] in ("highest", "mixed"), inside
            assert inside["cudnn"] in (False, "mixed"), inside
        assert seen() == before, (before, seen())
print("whole")
"""


def test_float32_is_whole_within_and_every_switch_as_before_afterwards():
    """PyTorch's older switches and its newer ones refuse to be mixed; the user's process may have used either."""
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", SWITCHES], capture_output=True, text=True)
    assert ended.stdout == "whole\n", ended.stderr


def test_applying_an_environment_sets_threads_and_whole_float32():
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        Numerics(threads=2).apply()
        assert torch.get_num_threads() == 2
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_on_a_gpu_what_has_a_deterministic_form_takes_it_and_the_process_is_as_before_afterwards(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def seen():
        fused = torch.backends.cuda
        attention = (fused.flash_sdp_enabled(), fused.mem_efficient_sdp_enabled(), fused.cudnn_sdp_enabled())
        fill = torch.utils.deterministic.fill_uninitialized_memory
        return torch.are_deterministic_algorithms_enabled(), *attention, fill

    before = seen()
    with numerics.as_before():
        Numerics(device="cuda").apply()
        assert seen() == (True, False, False, False, False)
        assert torch.is_deterministic_algorithms_warn_only_enabled(), "what has no such form still runs"
        assert numerics.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert seen() == before
    with numerics.as_before():
        Numerics().apply()
        assert seen() == before, "on a CPU nothing of it is needed"


def test_a_job_on_a_cpu_does_not_import_the_compiler():
    script = """
import sys
from datadiet.numerics import Numerics, as_before
with as_before():
    Numerics().apply()
print("torch._inductor" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert ended.stdout == "False\n", ended.stderr


def test_a_gpu_that_nobody_uses_yet_is_seeded_afterwards_as_the_cpu_is(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    state = torch.get_rng_state()
    torch.manual_seed(123)
    with numerics.as_before():
        torch.manual_seed(7)
    assert seeds[-1] == 123
    torch.set_rng_state(state)


def test_training_and_scoring_have_their_own_precision():
    half = Numerics(precision="bfloat16")
    a = torch.ones(2, 2)
    with half.autocast():
        assert (a @ a).dtype == torch.bfloat16
    with half.autocast(scoring=True):
        assert (a @ a).dtype == torch.float32
