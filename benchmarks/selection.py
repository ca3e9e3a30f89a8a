"""Selecting from a hundred million scores: seconds, and peak resident memory against the column's bytes.

Every case is a fresh process that opens the column and selects half of it by `dd.select`. Seconds are of both together
(imports are not counted, the files are in the page cache). The peak is all the process ever had resident, with the
interpreter, the libraries, the mapped pages of the file and the result (8 bytes a row kept: for a half as much as the
column); "÷ column" is it over 4 bytes a row. The aims are at most 20 s and at most 3.

    npy, safetensors   memory-mapped (safetensors with its checksum verified)
    parquet            a column of record batches, read into one array
    counts             an .npy of counts from 0 to 20: nothing but ties

Run: python benchmarks/selection.py [--rows 100000000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = ("npy", "safetensors", "parquet", "counts")
POLICIES: dict[str, dict[str, Any]] = {"hardest": {}, "window": {"offset": 0.3}, "stratified": {"beta": 0.1}}
PART = 1 << 22  # rows made at a time
NAME = "score"


def make(source: str, rows: int, folder: Path) -> Path:
    """A file of `rows` float32 scores."""
    rng = np.random.default_rng(0)
    plain = folder / f"{source}.npy"
    values = np.lib.format.open_memmap(plain, mode="w+", dtype=np.float32, shape=(rows,))
    for start in range(0, rows, PART):
        part = values[start : start + PART]
        part[:] = rng.integers(0, 21, len(part)) if source == "counts" else rng.beta(0.5, 3, len(part))
    if source in ("npy", "counts"):
        values.flush()
        return plain
    path = folder / f"column.{source}"
    if source == "safetensors":
        from datadiet.store.files import write_tensors

        write_tensors(path, {NAME: values})
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(NAME, pa.float32())])
        with pq.ParquetWriter(path, schema) as writer:
            for start in range(0, rows, PART):
                writer.write_table(pa.table({NAME: values[start : start + PART]}, schema=schema))
    del values
    plain.unlink()
    return path


def column(path: Path) -> np.ndarray:
    """The scores as an array (N,), memory-mapped where the file allows it."""
    if path.suffix == ".npy":
        mapped: np.ndarray = np.load(path, mmap_mode="r")
        return mapped
    if path.suffix == ".safetensors":
        from datadiet.store.files import read_tensors

        found: np.ndarray = read_tensors(path, mmap=True)[0][NAME]
        return found
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        values = np.empty(file.metadata.num_rows, np.float32)
        filled = 0
        for batch in file.iter_batches(1 << 17, columns=[NAME], use_threads=False):
            values[filled : filled + len(batch)] = batch.column(0).to_numpy(zero_copy_only=False)
            filled += len(batch)
    del batch
    pa.default_memory_pool().release_unused()
    return values


def one(path: Path, policy: str) -> dict[str, float]:
    """Open and select, in this process."""
    import datadiet as dd

    select = dd.select
    if path.suffix == ".parquet":
        import pyarrow.parquet  # noqa: F401
    before = peak()
    start = time.perf_counter()
    subset = select(column(path), keep=0.5, policy=policy, **POLICIES[policy])
    return {"seconds": time.perf_counter() - start, "before": before, "peak": peak(), "kept": len(subset)}


def peak() -> float:
    """Bytes that this process had resident at most."""
    try:
        # Not getrusage: what it says of a new process begins with its parent's peak.
        status = Path("/proc/self/status").read_text()
        return 1024 * float(status.split("VmHWM:")[1].split()[0])
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--folder", type=Path, help="where the files are made, one at a time; default a temporary one")
    parser.add_argument("--only", default="", help="sources whose name holds this")
    parser.add_argument("--one", nargs=2, metavar=("FILE", "POLICY"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(Path(asked.one[0]), asked.one[1])))
        return
    size = 4 * asked.rows
    print(f"{asked.rows:,} float32 scores, {size / 1e6:,.0f} MB; half is kept\n")
    print("| column | policy | seconds | peak [MB] | ÷ column | of it before [MB] |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        for source in SOURCES:
            if asked.only not in source:
                continue
            path = make(source, asked.rows, Path(folder))
            for policy in POLICIES:
                words = [sys.executable, __file__, "--one", str(path), policy]
                found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
                assert found["kept"] == (asked.rows + 1) // 2
                print(
                    f"| {source} | {policy} | {found['seconds']:.1f} | {found['peak'] / 1e6:,.0f} "
                    f"| {found['peak'] / size:.2f} | {found['before'] / 1e6:,.0f} |",
                    flush=True,
                )
            path.unlink()


if __name__ == "__main__":
    main()
