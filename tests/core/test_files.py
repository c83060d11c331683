"""Files are written whole or not at all, and a full disk is told from a wrong place."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core.errors import DiskFull, UserError
from harness.core.files import make_directory, write_atomically
from tests.helpers import FAKE, ROOT, joulebench, refused

RUN = ROOT / "tests" / "data" / "run-first"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"tmpfs can't be mounted: {mounted.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def fill(disk: Path) -> None:
    (disk / "filler").write_bytes(b"x" * shutil.disk_usage(disk).free)


@needs_root
@pytest.mark.parametrize(
    ("command", "written"),
    [
        (["figures", RUN, "-o"], "out"),
        (["report", RUN, "-o"], "out.html"),
        (["fit", RUN, "-o"], "out.json"),
        ([*FAKE, "-m", "fake", "-o"], "out"),
    ],
    ids=["figures", "report", "fit", "measure"],
)
def test_full_disk_is_one_line_and_a_fault(command: list, written: str, disk: Path) -> None:
    fill(disk)
    done = joulebench(*command, disk / written)
    assert done.returncode == 1, (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"joulebench: error: can't write {disk / written}")
    assert line.endswith("No space left on device; make room and run the same command again")
    assert not [path for path in disk.rglob("*") if path.is_file() and path.name != "filler"], "nothing torn is left"


@needs_root
def test_full_disk_leaves_older_pictures_whole(disk: Path) -> None:
    assert joulebench("figures", RUN, "-o", disk / "figures").returncode == 0
    before = {path: path.read_bytes() for path in (disk / "figures").iterdir()}
    fill(disk)
    assert joulebench("figures", RUN, "--models", "-o", disk / "figures").returncode == 1
    assert {path: path.read_bytes() for path in (disk / "figures").iterdir()} == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_a_fault_wherever_it_is_noticed(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("before")

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("harness.core.files.os.fsync", full)
    with pytest.raises(DiskFull, match="make room and run the same command again"):
        write_atomically(tmp_path / "a", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def test_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.core.files.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", "after")
    assert not list(tmp_path.iterdir())


def test_pictures_on_a_full_disk_are_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other reasons leave one picture out; without room none can be made."""
    from harness.showing import pictures

    def full(*arguments: object, **options: object) -> None:
        raise DiskFull("no room")

    run = shutil.copytree(RUN, tmp_path / "run")
    monkeypatch.setattr(pictures, "write_figures", full)
    with pytest.raises(DiskFull):
        list(pictures.draw_all(run))


def test_wrong_place_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "can't write" in refused(joulebench("figures", RUN, "-o", tmp_path / "file" / "figures"))
    with pytest.raises(UserError, match="can't write"):
        make_directory(tmp_path / "file" / "folder")


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content in ("ä\n", b"\x00\xff"):
        write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]
    old = os.umask(0o077)
    try:
        write_atomically(tmp_path / "private", "")
    finally:
        os.umask(old)
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    write_atomically(pipe, "words")
    assert reader.communicate(timeout=10)[0] == b"words"
    assert pipe.is_fifo()
