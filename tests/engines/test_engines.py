"""Both engines give the same outcomes; one failure spoils no other; stops are clean."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_jobs as work
import numpy as np
import pytest
import torch

from datadiet.engines import ENGINES, Engine, Inline, Job, Processes, Progress, make
from datadiet.engines.job import as_bug
from datadiet.engines.processes import _Worker
from datadiet.errors import DatadietError, Diverged, Interrupted


@pytest.fixture(scope="module")
def pool() -> Iterator[Processes]:
    with Processes(2, threads=1) as engine:
        yield engine


@pytest.fixture(params=["inline", "processes"])
def engine(request: pytest.FixtureRequest, pool: Processes) -> Engine:
    return pool if request.param == "processes" else Inline()


def outcomes(engine: Engine, *jobs: Job) -> dict[str, object]:
    return {outcome.key: outcome for outcome in engine.run(jobs)}


def wait_for(file: Path) -> str:
    end = time.monotonic() + 120
    while not file.exists() or not file.read_text():
        assert time.monotonic() < end, f"{file} did not appear"
        time.sleep(0.02)
    return file.read_text()


def test_every_job_gives_its_value(engine: Engine) -> None:
    found = outcomes(engine, *(Job(str(n), work.square, {"value": n}) for n in range(7)))
    assert {key: outcome.value for key, outcome in found.items()} == {str(n): n * n for n in range(7)}
    assert all(outcome.ok and outcome.seconds >= 0 for outcome in found.values())


def test_values_are_the_same_bytes_on_every_engine(pool: Processes) -> None:
    jobs = [Job(str(seed), work.draw, {"seed": seed}) for seed in range(3)]
    here, there = outcomes(Inline(), *jobs), outcomes(pool, *jobs)
    assert all(here[key].value.tobytes() == there[key].value.tobytes() for key in here)


def test_one_failure_spoils_no_other(engine: Engine) -> None:
    found = outcomes(
        engine,
        Job("bad", work.fail, label="run 3"),
        Job("nan", work.diverge),
        Job("exit", work.leave),
        Job("good", work.square, {"value": 3}),
    )
    assert found["good"].value == 9
    assert "run 3: failed with ZeroDivisionError: one by none" in str(found["bad"].error)
    assert "bug" in str(found["bad"].error)
    assert "engine_jobs.py" in found["bad"].traceback
    assert isinstance(found["nan"].error, Diverged)
    assert str(found["nan"].error) == "step 7: the loss is nan; lower the rate"
    assert found["nan"].traceback is None
    assert "SystemExit" in str(found["exit"].error)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_full_memory_is_no_bug(error: BaseException) -> None:
    said = as_bug(error, "run 3")
    assert str(said).startswith("run 3: ran out of memory")
    assert "smaller batch" in str(said)


def test_a_stated_error_of_a_private_kind_keeps_its_words(engine: Engine) -> None:
    (outcome,) = engine.run([Job("p", work.fail_privately)])
    assert str(outcome.error) == "number 3; take another"


def test_shared_arrays_reach_jobs_read_only(engine: Engine) -> None:
    arrays = {
        "x/1": np.arange(12, dtype=np.uint8).reshape(3, 4),
        "empty": np.zeros((0, 2)),
        "one": np.float64([0.5]),
    }
    engine.share("abc", arrays)
    engine.share("abc", arrays)
    (outcome,) = engine.run([Job("sum", work.total, {"fingerprint": "abc"})])
    assert outcome.value == (66.5, False)
    (outcome,) = engine.run([Job("sum", work.total, {"fingerprint": "other"})])
    assert "no arrays were shared" in str(outcome.error)


def test_progress_is_reported_first_last_and_seldom(engine: Engine) -> None:
    seen: list[Progress] = []
    list(engine.run([Job("p", work.report, {"steps": 20_000}, label="run", steps=20_000)], seen.append))
    assert (seen[0].done, seen[-1].done, seen[-1].total) == (0, 20_000, 20_000)
    assert seen[-1].info["loss"] > 0
    assert len(seen) < 200
    assert {report.label for report in seen} == {"run"}


def test_a_caller_that_is_busy_elsewhere_does_not_stall_jobs(pool: Processes, tmp_path: Path) -> None:
    seen: list[Progress] = []

    def busy(progress: Progress) -> None:
        seen.append(progress)
        if progress.info.get("step") == 1:
            wait_for(tmp_path / "done")

    (outcome,) = pool.run([Job("chatty", work.chatter, {"folder": str(tmp_path)})], busy)
    assert outcome.value == 6
    assert seen[-1].info["step"] == 6


def test_log_lines_of_jobs_reach_the_handlers_of_the_caller(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        list(engine.run([Job("w", work.warn)]))
    assert "from afar: 7" in caplog.text


def test_two_jobs_of_one_key_are_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="several jobs"):
        engine.run([Job("a", work.warn), Job("a", work.warn)])


def test_a_run_that_is_left_early_ends_its_jobs_and_the_next_one_works(tmp_path: Path) -> None:
    with Processes(2) as engine:
        jobs = [Job("deaf", work.deaf, {"folder": str(tmp_path)}), Job("quick", work.square, {"value": 1})]
        running = engine.run(jobs)
        assert next(running).value == 1
        wait_for(tmp_path / "deaf.pid")
        with pytest.raises(RuntimeError, match="one run at a time"):
            engine.run(jobs)
        running.close()  # type: ignore[attr-defined]
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "deaf.pid").read_text()), 0)
        assert [outcome.value for outcome in engine.run([Job("c", work.square, {"value": 2})])] == [4]


def test_a_job_past_its_timeout_is_asked_to_stop(engine: Engine, tmp_path: Path) -> None:
    arguments = {"folder": str(tmp_path), "name": "t"}
    slow = Job("slow", work.until_asked, arguments, label="run 1", timeout=0.2)
    found = outcomes(engine, slow, Job("quick", work.square, {"value": 2}))
    assert str(found["slow"].error).startswith("run 1: took longer than its 0.2 s")
    assert found["quick"].value == 4
    assert (tmp_path / "t.saved").exists()


def test_a_stop_lets_jobs_save_and_then_says_so(engine: Engine, tmp_path: Path) -> None:
    jobs = [Job(n, work.until_asked, {"folder": str(tmp_path), "name": n}) for n in "abcd"]

    def stop() -> None:
        wait_for(tmp_path / "a.pid")
        engine.stop()

    threading.Thread(target=stop).start()
    with pytest.raises(Interrupted, match="the same command goes on"):
        list(engine.run(jobs))
    started = {file.stem for file in tmp_path.glob("*.pid")}
    assert "a" in started
    assert len(started) < 4
    assert {file.stem for file in tmp_path.glob("*.saved")} == started
    # The same jobs again on the same engine: the old request is forgotten.
    assert [o.value for o in engine.run([Job("a", work.square, {"value": 5})])] == [25]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_jobs_save_and_the_old_handler_comes_back(
    engine: Engine, tmp_path: Path, number: signal.Signals
) -> None:
    def own(*_: object) -> None:
        raise AssertionError("it is for the engine while it runs")

    before = signal.signal(number, own)
    try:
        job = Job("asker", work.signal_then_wait, {"pid": os.getpid(), "number": number, "folder": str(tmp_path)})
        with pytest.raises(Interrupted):
            list(engine.run([job]))
        assert (tmp_path / "asker.saved").exists()
        assert signal.getsignal(number) is own
    finally:
        signal.signal(number, before)


def test_in_another_thread_signals_are_left_alone(engine: Engine) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    found = []
    thread = threading.Thread(target=lambda: found.extend(engine.run([Job("a", work.square, {"value": 5})])))
    thread.start()
    thread.join()
    assert [outcome.value for outcome in found] == [25]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_sigterm_is_handled_where_ctrl_c_is_ignored(engine: Engine, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a script's `command &`
    try:
        arguments = {"pid": os.getpid(), "number": signal.SIGTERM, "folder": str(tmp_path)}
        with pytest.raises(Interrupted):
            list(engine.run([Job("asker", work.signal_then_wait, arguments)]))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_last_job_that_does_not_see_it_is_not_forgotten(engine: Engine) -> None:
    found = engine.run([Job("last", work.interrupt_and_finish, {"pid": os.getpid()})])
    assert next(iter(found)).value == "whole", "what was done counts"
    with pytest.raises(Interrupted, match="the same command goes on"):
        next(iter(found))
    assert [o.value for o in engine.run([Job("a", work.square, {"value": 5})])] == [25]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(tmp_path: Path, number: signal.Signals) -> None:
    def press() -> None:
        wait_for(tmp_path / "deaf.pid")
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # at the same time: the same request once more
        time.sleep(0.5)
        os.kill(os.getpid(), number)

    with Processes(1) as engine:
        threading.Thread(target=press).start()
        with pytest.raises(KeyboardInterrupt):
            list(engine.run([Job("deaf", work.deaf, {"folder": str(tmp_path)})]))
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "deaf.pid").read_text()), 0)


def test_a_killed_worker_fails_its_job_only(pool: Processes) -> None:
    found = outcomes(
        pool,
        Job("killed", work.die, {"number": signal.SIGKILL}, label="run 2"),
        Job("crashed", work.die, {"number": signal.SIGSEGV}),
        Job("left", work.quit_process),
        *(Job(str(n), work.square, {"value": n}) for n in range(4)),
    )
    assert [found[str(n)].value for n in range(4)] == [0, 1, 4, 9]
    assert "run 2: its process is gone: it was killed (SIGKILL)" in str(found["killed"].error)
    assert "SIGSEGV" in str(found["crashed"].error)
    assert "exit code 5" in str(found["left"].error)


def test_a_job_that_does_not_hear_its_timeout_is_ended(pool: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "grace", 0.1)
    found = outcomes(pool, Job("deaf", work.deaf, timeout=0.1), Job("good", work.square, {"value": 3}))
    assert "took longer than its 0.1 s" in str(found["deaf"].error)
    assert found["good"].value == 9


def test_what_cannot_cross_to_a_process_is_said(pool: Processes) -> None:
    found = outcomes(
        pool,
        Job("there", lambda context: 1, label="run 1"),
        Job("back", work.unpicklable_result),
        Job("good", work.square, {"value": 3}),
    )
    assert "run 1: cannot be sent to another process" in str(found["there"].error)
    assert "back: failed with" in str(found["back"].error)
    assert found["good"].value == 9


@pytest.mark.parametrize("kind", [ValueError, OSError, EOFError])
def test_what_cannot_be_unpacked_fails_its_job_only(kind: type[Exception]) -> None:
    with Processes(1) as one:
        found = outcomes(
            one,
            Job("there", work.last, {"of": [work.Stays(kind)]}, label="run 1"),
            Job("back", work.give, {"kind": kind}, label="run 2"),
            Job("unsent", lambda context: 1, label="run 3"),
            Job("good", work.my_pid),
        )
        assert [str(found[key].error).partition(";")[0] for key in ("there", "back")] == [
            f"{run}: failed with {kind.__name__}: not here" for run in ("run 1", "run 2")
        ]
        assert "run 3: cannot be sent" in str(found["unsent"].error)
        # None of them has cost the worker its life, and no value of one is taken for another's.
        (again,) = one.run([Job("again", work.my_pid)])
        assert again.value == found["good"].value


def test_what_is_larger_than_a_pipe_holds_crosses_both_ways(pool: Processes) -> None:
    arrays = [np.random.default_rng(n).standard_normal(500_000) for n in range(6)]
    found = outcomes(pool, *(Job(str(n), work.last, {"of": [array]}) for n, array in enumerate(arrays)))
    for n, array in enumerate(arrays):
        np.testing.assert_array_equal(found[str(n)].value, array)


def test_tensors_cross_as_copies(pool: Processes) -> None:
    mine = torch.zeros(3)
    wants = torch.ones(2, requires_grad=True)
    found = outcomes(
        pool,
        Job("a", work.spoil, {"tensor": mine}),
        Job("b", work.spoil, {"tensor": mine}),
        Job("many", work.last, {"of": [torch.full((1,), float(n)) for n in range(3000)]}),
        Job("graph", work.doubled, {"tensor": wants}),
    )
    assert mine.tolist() == [0, 0, 0]
    assert not mine.is_shared()
    assert [found[key].value.tolist() for key in "ab"] == [[99, 0, 0]] * 2
    assert found["many"].value.tolist() == [2999]
    assert found["graph"].value.tolist() == [2, 2]


def test_an_interrupt_in_the_middle_of_handing_out_leaves_no_job_for_the_next_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send = _Worker.send

    def interrupted(worker: _Worker, *message: Any) -> bool:
        sent = send(worker, *message)
        if message[0] == "job":
            raise KeyboardInterrupt
        return sent

    with Processes(1) as engine:
        monkeypatch.setattr(_Worker, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(engine.run([Job("a", work.square, {"value": 2})]))
        monkeypatch.undo()
        assert [o.value for o in engine.run([Job("b", work.square, {"value": 3})])] == [9]


def test_workers_start_with_the_planned_threads_and_our_environment_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with Processes(1, threads=2) as engine:
        (outcome,) = engine.run([Job("me", work.about_me)])
    assert outcome.value[0] != os.getpid()
    assert outcome.value[1:] == ("2", 2)
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_closing_removes_the_shared_files_and_ends_the_workers() -> None:
    engine = Processes(1)
    engine.share("f", {"x": np.ones(5)})
    file = Path(engine._shared.index["f"]["x"])
    assert file.exists()
    (outcome,) = engine.run([Job("me", work.my_pid)])
    engine.close()
    assert not file.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(outcome.value, 0)


def test_the_engine_is_chosen_by_name() -> None:
    assert {"inline", "processes"} <= set(ENGINES)
    assert isinstance(make("inline", workers=3), Inline)
    assert make("processes", workers=3).workers == 3
    with pytest.raises(DatadietError, match="did you mean inline"):
        make("inlin")
    with pytest.raises(DatadietError, match="workers"):
        make("processes", workers=0)
