"""Downloads, against a server on this machine: resuming, checksums, what to put where."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from datadiet.data import fetch, load, mnist
from datadiet.errors import DatadietError

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`; `cut` closes the connection after so many bytes, `ranges=False` ignores Range."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/file": CONTENT}
        self.cut: list[int] = []
        self.ranges = True
        self.asked: list[str | None] = []
        self.status = 200

    def url(self, path: str = "/file") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        content = self.server.files.get(self.path)
        if content is None or self.server.status != 200:
            self.send_error(404 if content is None else self.server.status)
            return
        start = int(asked[6:-1]) if asked and self.server.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = start + self.server.cut.pop(0) if self.server.cut else len(content)
        self.wfile.write(content[start:stop])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    one = Server()
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield one
    one.shutdown()
    one.server_close()
    thread.join()


@pytest.fixture
def offline(monkeypatch):
    """The network that answers nothing."""

    def refuse(*args, **options):
        raise fetch.urllib.error.URLError("no network")

    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(fetch.urllib.request, "urlopen", refuse)


def published(server, md5=MD5, path="/file"):
    return fetch.Published("file.bin", md5, (server.url(path),))


def test_a_file_is_downloaded_with_progress_and_left_without_a_part(server, tmp_path):
    seen = []
    path = fetch.fetch(published(server), tmp_path, progress=lambda *step: seen.append(step))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == ("file.bin", len(CONTENT), len(CONTENT))
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_a_broken_connection_is_continued_where_it_broke(server, tmp_path):
    server.cut = [100_000, 50_000]
    assert fetch.fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_the_part_of_an_earlier_attempt_is_continued(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:123_456])
    assert fetch.fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=123456-"]


def test_an_interrupted_download_keeps_its_part_for_the_next(server, tmp_path):
    server.cut = [10_000] * fetch.ATTEMPTS
    with pytest.raises(OSError, match="ended after"):
        fetch.fetch(published(server), tmp_path)
    kept = (tmp_path / "file.bin.part").stat().st_size
    assert kept == 10_000 * fetch.ATTEMPTS
    assert fetch.fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={kept}-"


def test_a_server_that_ignores_ranges_sends_all_of_it_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    assert fetch.fetch(published(server), tmp_path).read_bytes() == CONTENT


def test_a_complete_part_is_taken_without_another_byte(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert fetch.fetch(published(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"wrong" * 1000, CONTENT + b"more"])
def test_a_damaged_part_is_given_up_and_the_file_fetched_afresh(server, tmp_path, part):
    (tmp_path / "file.bin.part").write_bytes(part)
    assert fetch.fetch(published(server), tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing_that_looks_like_the_file(server, tmp_path):
    with pytest.raises(DatadietError, match="wrong checksum"):
        fetch.fetch(published(server, md5="0" * 32), tmp_path)
    assert not (tmp_path / "file.bin").exists()
    assert (tmp_path / "file.bin.part").stat().st_size == 0


def test_the_second_address_serves_when_the_first_does_not(server, tmp_path):
    file = fetch.Published("file.bin", MD5, (server.url("/gone"), server.url()))
    assert fetch.fetch(file, tmp_path).read_bytes() == CONTENT


def test_a_failing_server_is_one_line_that_says_what_to_put_where(server, tmp_path, cache):
    server.status = 503
    with pytest.raises(DatadietError, match=r"file.bin not there, and cannot be downloaded .*put into"):
        fetch.find_or_fetch("thing", [published(server)])
    assert len(server.asked) == fetch.ATTEMPTS


def test_two_processes_after_one_file_download_it_once(server, tmp_path):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch.fetch(published(server), tmp_path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() == CONTENT for path in results] == [True] * 4
    assert server.asked == [None]
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "blocked").write_text("a file where a folder should be")
    with pytest.raises(DatadietError, match=r"blocked.*cannot be written"):
        fetch.fetch(published(server), tmp_path / "blocked" / "sub")


def test_a_full_disk_is_named_and_not_a_traceback(server, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch, "_receive", full)
    with pytest.raises(DatadietError, match="no space is left on the disk; free some space"):
        fetch.fetch(published(server), tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cinic10", "mnist", "fashion-mnist"])
def test_without_a_network_one_line_says_which_file_to_put_where(name, tmp_path, cache, offline):
    with pytest.raises(DatadietError) as caught:
        load(name)
    line = str(caught.value)
    assert "\n" not in line
    assert str(cache / name) in line
    assert "http" in line
    with pytest.raises(DatadietError, match=str(tmp_path)):
        load(name, data_dir=tmp_path)


def test_download_false_never_touches_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.urllib.request, "urlopen", lambda *a, **k: pytest.fail("asked the network"))
    with pytest.raises(DatadietError, match=r"train-images-idx3-ubyte.gz, .*t10k-labels-idx1-ubyte.gz not there"):
        load("mnist", download=False)


def test_a_mistyped_data_dir_starts_no_download(tmp_path):
    with pytest.raises(DatadietError, match="no such folder"):
        load("cifar10", data_dir=tmp_path / "typo")


def test_a_named_dataset_is_downloaded_to_the_cache_and_found_there_later(
    server, tmp_path, cache, monkeypatch, write_idx
):
    write_idx(tmp_path, "{part}-ubyte.gz")
    table = []
    for part in mnist.PARTS:
        content = (tmp_path / f"{part}-ubyte.gz").read_bytes()
        server.files[f"/{part}-ubyte.gz"] = content
        plain = mnist._content(tmp_path / f"{part}-ubyte.gz")
        table.append((hashlib.md5(content).hexdigest(), hashlib.md5(plain).hexdigest()))
    monkeypatch.setitem(mnist.MD5, "mnist", tuple(table))
    monkeypatch.setitem(mnist.SITES, "mnist", (server.url("/"),))
    first = load("mnist")
    assert len(server.asked) == 4
    assert sorted(p.name for p in (cache / "mnist").iterdir()) == sorted(f"{part}-ubyte.gz" for part in mnist.PARTS)
    assert load("mnist").fingerprint == first.fingerprint
    assert len(server.asked) == 4


def test_a_data_dir_that_is_not_there_is_refused_for_every_source(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((8, 2)), y=np.arange(8) % 2)
    for source in ("digits", "mnist", "hf:some/thing", str(tmp_path / "a.npz"), (np.ones((8, 2)), np.arange(8) % 2)):
        with pytest.raises(DatadietError, match=r"nosuch: no such folder; check data_dir \(--data-dir\)"):
            load(source, data_dir=tmp_path / "nosuch")
        with pytest.raises(DatadietError, match="not a folder"):
            load(source, data_dir=tmp_path / "a.npz")


def test_built_in_data_do_not_ask_again_for_a_folder_that_they_never_needed(tmp_path):
    (tmp_path / "there").mkdir()
    source = load("digits", data_dir=tmp_path / "there").source
    (tmp_path / "there").rmdir()
    assert load(**source).name == "digits"
