"""Files appear whole or not at all, come back as they went, and no change to them goes unseen."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

from datadiet.errors import DatadietError
from datadiet.store import (
    Damaged,
    NotOurs,
    atomic,
    read_json,
    read_tensors,
    writable_folder,
    write_bytes,
    write_json,
    write_tensors,
)
from datadiet.store import files as module

few = settings(max_examples=40)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
json_dicts = st.dictionaries(st.text().filter(lambda k: k not in ("schema", "checksum")), json_values, max_size=4)
dtypes = st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_, np.complex64, ">i4"])
arrays = dtypes.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
names = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda n: n != "__metadata__")
tensor_dicts = st.dictionaries(names, arrays, max_size=4)

EXAMPLE: dict[str, Any] = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "step": np.int64(7),
    "half": torch.arange(5).to(torch.bfloat16),
    "mask": np.array([True, False, True]),
}


@pytest.fixture(scope="module")
def folder() -> Any:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@few
@given(content=json_dicts)
def test_json_comes_back_as_it_went(folder: Path, content: dict[str, Any]) -> None:
    write_json(folder / "a.json", content)
    assert read_json(folder / "a.json") == content
    write_json(folder / "b.json", dict(reversed(content.items())))
    assert (folder / "a.json").read_bytes() == (folder / "b.json").read_bytes()


@few
@given(tensors=tensor_dicts, meta=json_dicts, mmap=st.booleans())
def test_tensors_come_back_as_they_went(folder: Path, tensors: Any, meta: Any, mmap: bool) -> None:
    write_tensors(folder / "a.safetensors", tensors, meta)
    found, found_meta = read_tensors(folder / "a.safetensors", mmap=mmap)
    assert found_meta == meta
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype.newbyteorder("<")
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


@few
@given(tensors=tensor_dicts, meta=json_dicts)
def test_the_same_content_gives_the_same_bytes(folder: Path, tensors: Any, meta: Any) -> None:
    write_tensors(folder / "a.safetensors", tensors, meta)
    write_tensors(folder / "b.safetensors", dict(reversed(tensors.items())), dict(reversed(meta.items())))
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()


@settings(max_examples=200)
@given(data=st.data(), mmap=st.booleans())
def test_any_altered_byte_is_detected(folder: Path, data: st.DataObject, mmap: bool) -> None:
    file = folder / "altered.safetensors"
    write_tensors(file, EXAMPLE, {"run": "abc", "numerics": {"threads": 1}})
    content = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] = data.draw(st.integers(0, 255).filter(lambda value: value != content[position]))
    file.write_bytes(content)
    with pytest.raises(DatadietError):
        read_tensors(file, mmap=mmap)


def test_a_flip_of_each_single_bit_is_detected(folder: Path) -> None:
    file = folder / "flipped.safetensors"
    write_tensors(file, EXAMPLE)
    whole = file.read_bytes()
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1 << (position % 8)
        file.write_bytes(content)
        with pytest.raises(DatadietError):
            read_tensors(file)


@pytest.mark.parametrize("mmap", [False, True])
def test_a_file_cut_anywhere_is_detected(folder: Path, mmap: bool) -> None:
    file = folder / "cut.safetensors"
    write_tensors(file, EXAMPLE)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(Damaged, match="is damaged"):
            read_tensors(file, mmap=mmap)
    file.write_bytes(whole + b"\0")
    with pytest.raises(Damaged):
        read_tensors(file, mmap=mmap)


@settings(max_examples=150)
@given(data=st.data())
def test_json_that_is_cut_or_says_something_else_is_detected(folder: Path, data: st.DataObject) -> None:
    file = folder / "altered.json"
    content = {"accuracy": 0.9615, "runs": [1, 2, 3], "name": "el2n é"}
    write_json(file, content)
    whole = file.read_bytes()
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 3))])
    with pytest.raises(Damaged):
        read_json(file)
    position = data.draw(st.integers(0, len(whole) - 1))
    altered = bytearray(whole)
    altered[position] = data.draw(st.integers(0, 255))
    file.write_bytes(altered)
    with suppress(DatadietError):
        assert read_json(file) == content  # only white space may change


def test_torch_tensors_of_any_layout_come_back_as_torch(tmp_path: Path) -> None:
    tensors = {
        "bf16": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16(),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "channels_last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "expanded": torch.ones(1).expand(5),
        "empty": torch.zeros(0, 3),
        "rng": torch.get_rng_state(),
    }
    write_tensors(tmp_path / "t.safetensors", tensors)
    for mmap in (False, True):
        found, _ = read_tensors(tmp_path / "t.safetensors", as_torch=True, mmap=mmap)
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor.detach())
        found["parameter"].add_(1)  # writable, and only here
    assert torch.equal(read_tensors(tmp_path / "t.safetensors", as_torch=True)[0]["parameter"], torch.ones(2))
    assert read_tensors(tmp_path / "t.safetensors")[0]["bf16"].dtype == torch.bfloat16


def test_memory_maps_are_written_as_they_are(tmp_path: Path) -> None:
    values = np.arange(5000, dtype=np.int16).reshape(50, 100)
    np.save(tmp_path / "x.npy", values)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    write_tensors(tmp_path / "x.safetensors", {"all": mapped, "part": mapped[::2, 3:9]})
    found, _ = read_tensors(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(found["all"], values)
    np.testing.assert_array_equal(found["part"], values[::2, 3:9])


def test_the_safetensors_library_reads_our_files(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", EXAMPLE, {"run": "é"})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert list(file.metadata()) == ["datadiet"]
        assert torch.equal(file.get_tensor("weight"), torch.from_numpy(EXAMPLE["weight"]))
        assert torch.equal(file.get_tensor("half"), EXAMPLE["half"])
        assert file.get_tensor("step").shape == ()


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.ones(3)}, tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text('{"shop": "of someone else"}')
    for read, name in ((read_tensors, "x.safetensors"), (read_json, "x.json")):
        with pytest.raises(NotOurs, match="was not written by datadiet") as caught:
            read(tmp_path / name)
        assert "remove" not in str(caught.value)


def test_what_a_newer_version_wrote_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "x.json", {"a": 1}, schema=3)
    assert read_json(tmp_path / "x.json", schema=4) == {"a": 1}
    with pytest.raises(DatadietError, match="was written by a newer datadiet") as caught:
        read_json(tmp_path / "x.json", schema=2)
    assert not isinstance(caught.value, Damaged)
    monkeypatch.setattr(module, "TENSOR_SCHEMA", 2)
    write_tensors(tmp_path / "x.safetensors", EXAMPLE)
    monkeypatch.undo()
    with pytest.raises(DatadietError, match="was written by a newer datadiet"):
        read_tensors(tmp_path / "x.safetensors")


def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for value, kind in ((np.array(["a"]), TypeError), ([1.0], TypeError), (np.array([object()]), TypeError)):
        with pytest.raises(kind):
            write_tensors(tmp_path / "x.safetensors", {"bad": value})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x.txt", b"old")

    def fail_halfway() -> None:
        with atomic(tmp_path / "x.txt") as temporary:
            assert temporary.suffix == ".txt"
            assert temporary.parent == tmp_path
            temporary.write_bytes(b"new")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail_halfway()
    assert (tmp_path / "x.txt").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space is left"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")],
)
def test_errors_of_the_disk_name_the_path_and_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    write_json(tmp_path / "x.json", {"a": 1})

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DatadietError, match=words) as caught:
        write_json(tmp_path / "x.json", {"a": 2})
    assert caught.value.where == str(tmp_path / "x.json")
    assert caught.value.fix
    monkeypatch.undo()
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_that_the_system_cuts_short_is_one_clear_line(tmp_path: Path) -> None:
    text = (
        "import resource, sys, numpy as np\n"
        "from datadiet.store import write_tensors\n"
        "from datadiet.errors import DatadietError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: write_tensors(sys.argv[1], {'x': np.zeros(100_000)})\n"
        "except DatadietError as error: print(error)\n"
    )
    command = [sys.executable, "-c", text, str(tmp_path / "x.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert "x.safetensors: the file is larger than allowed here" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_take_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatadietError, match="a file stands where a folder is needed"):
        write_bytes(tmp_path / "file" / "x.json", b"")
    with pytest.raises(DatadietError, match="is a folder where a file is meant"):
        write_bytes(tmp_path, b"")
    with pytest.raises(DatadietError, match="no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(DatadietError, match="the name is too long"):
        write_bytes(tmp_path / ("x" * 300), b"")


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    file = tmp_path / ("é" * 124 + ".json")  # 253 bytes
    write_json(file, {"a": 1})
    assert read_json(file) == {"a": 1}
    with pytest.raises(DatadietError, match="name is too long"):
        write_json(tmp_path / ("é" * 200), {"a": 1})


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DatadietError, match="not a regular file"):
        write_bytes(tmp_path / "pipe", b"x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_files_have_the_permissions_that_others_have(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"")
    (tmp_path / "y").write_bytes(b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_a_folder_is_checked_before_work_is_done_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert writable_folder(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DatadietError, match=r"about 1000000.0 TB are needed and .* are free"):
        writable_folder(tmp_path, need_bytes=10**18)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatadietError, match="a file stands where a folder is needed"):
        writable_folder(tmp_path / "file" / "below")

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DatadietError, match="permission denied") as caught:
        writable_folder(tmp_path)
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize("again", ["write", "check"])
def test_what_killed_processes_left_is_removed_and_what_live_ones_write_is_not(tmp_path: Path, again: str) -> None:
    kill = "import os, sys; from datadiet.store import atomic\nwith atomic(sys.argv[1]): os.kill(os.getpid(), 9)"
    write = "import sys; from datadiet.store import atomic\nwith atomic(sys.argv[1]): print(flush=True), input()"
    subprocess.run([sys.executable, "-c", kill, str(tmp_path / "x.json")], check=False, timeout=60)
    (dead,) = tmp_path.iterdir()
    live = subprocess.Popen(
        [sys.executable, "-c", write, str(tmp_path / "y.json")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert live.stdout is not None
    live.stdout.readline()
    (writing,) = set(tmp_path.iterdir()) - {dead}
    parts = dead.name.split("-")
    elsewhere, older = (dead.with_name("-".join([*parts[:2], name, *parts[3:]])) for name in ("0other0", "0older0"))
    older_format = dead.with_name("-".join([*parts[:2], *parts[3:]]))  # without the machine
    for file in (elsewhere, older, older_format):
        file.write_bytes(b"")
    for file in (older, older_format):
        os.utime(file, (time.time() - 10_000, time.time() - 10_000))
    os.utime(writing, (0, 0))
    if again == "write":
        write_bytes(tmp_path / "z", b"")
        (tmp_path / "z").unlink()
    else:
        writable_folder(tmp_path)
    assert set(tmp_path.iterdir()) == {writing, elsewhere}
    live.communicate(b"\n", timeout=60)
    assert live.returncode == 0
    assert (tmp_path / "y.json").exists()
