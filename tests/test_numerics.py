"""The numeric environment, resolved on machines that this one is not."""

from __future__ import annotations

import pytest
import torch

from datadiet import numerics
from datadiet.errors import DatadietError
from datadiet.numerics import Numerics, resolve


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine: `machine(cuda=2, capability=(8, 0), bf16=True, compiler=True, cores=8)`."""

    def pretend(cuda=0, mps=False, capability=(8, 0), bf16=False, compiler=True, cores=8):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
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


def test_training_and_scoring_have_their_own_precision():
    half = Numerics(precision="bfloat16")
    a = torch.ones(2, 2)
    with half.autocast():
        assert (a @ a).dtype == torch.bfloat16
    with half.autocast(scoring=True):
        assert (a @ a).dtype == torch.float32
