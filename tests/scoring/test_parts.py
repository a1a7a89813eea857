"""What is done stays done: a process killed at any moment, a full disk, two on one output."""

import os
import re
import resource
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pandas as pd
import pytest

from cxrlib.data.files import UNFINISHED
from cxrlib.scoring.parts import OutputError, open_parts
from cxrlib.scoring.tables import COLUMNS, read_scores

FILMS, SMALL = 50, 16  # in parts of 16, so in four


def row(film):
    """A row with all that CSV and Parquet could stumble over."""
    number = int(re.search(r"\d+", film)[0])
    if number % 5 == 0:
        return film, "unreadable", np.nan, "", 'no "film", so\r\nnone'
    return film, "ok", float(np.random.default_rng(number).random(dtype=np.float32)), "negative", ""


def names(count=FILMS):
    return [f"a, b/{number}\u00e9\n.jpg" for number in range(count)]


def work(out, count=FILMS, part=SMALL):
    """Write a table, or go on with it; return the numbers of the parts that were written."""
    with open_parts(out, names(count), {"run": "this"}, part) as parts:
        written = []
        for number, films in parts.todo():
            parts.write(number, [row(film) for film in films])
            written.append(number)
        assert parts.finish() == Counter(row(film)[1] for film in names(count))
    return written


def kept(out):
    return len(list(Path(f"{out}.parts").glob("[0-9]*.csv")))


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_the_file_holds_every_row_and_digit(tmp_path, name):
    out = tmp_path / name
    work(out, 10)
    assert work(out) == [0, 1, 2, 3]
    expected = pd.DataFrame(map(row, names()), columns=COLUMNS)
    pd.testing.assert_frame_equal(read_scores(out), expected, check_exact=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_many_rows_become_few_groups_of_parquet(tmp_path):
    from pyarrow import parquet

    out = tmp_path / "scores.parquet"
    work(out, 40_000, part=4000)
    assert 1 < parquet.ParquetFile(out).num_row_groups < 10
    assert read_scores(out)["path"].tolist() == names(40_000)


# Forks a process for each moment: one that is gone before its n-th call that changes the disk.
MOMENTS = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from cxrlib.data.files import _tidy
from test_parts import kept, work

out, calls = Path(sys.argv[2]), 0

def mortal(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

for moment in range(1, 200):
    child = os.fork()
    if not child:
        for name in ("mkdir", "replace", "unlink", "rmdir"):
            setattr(os, name, mortal(getattr(os, name)))
        work(out)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = kept(out)
    _tidy.cache_clear()  # as of a new process
    written = len(work(out))
    print(status, found, written, *sorted(path.name for path in out.parent.iterdir()))
    os.replace(out, f"{sys.argv[3]}/{moment}")
    if status == 0:
        break
"""


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_killed_before_any_change_of_the_disk(tmp_path, name):
    for folder in ("whole", "work", "results"):
        (tmp_path / folder).mkdir()
    work(tmp_path / "whole" / name)
    given = [Path(__file__).parent, tmp_path / "work" / name, tmp_path / "results"]
    command = [sys.executable, "-c", MOMENTS, *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *killed, undisturbed = [line.split() for line in done.stdout.splitlines()]
    assert undisturbed[0] == "0" and {line[0] for line in killed} == {"9"}
    assert len(killed) > 15
    # None to four parts were there; once the file is whole they go
    assert {line[1] for line in killed} == {"0", "1", "2", "3", "4"}
    assert all(int(written) == 4 - int(found) for _, found, written, *_ in killed)
    assert {(found, written) for _, found, written, *_ in killed} >= {("1", "3"), ("4", "0")}
    assert all(rest == [name] for _, _, _, *rest in killed)
    results = list((tmp_path / "results").iterdir())
    assert len(results) == len(killed) + 1
    assert {file.read_bytes() for file in results} == {(tmp_path / "whole" / name).read_bytes()}


def stop_after(out, number, **how):
    """Leave the first parts of a table, as a killed process does."""
    with open_parts(out, how.get("films", names()), {"run": "this"}, SMALL) as parts:
        for (n, films), _ in zip(parts.todo(), range(number), strict=False):
            parts.write(n, [row(film) for film in films])


def test_what_was_half_written_counts_for_nothing(tmp_path):
    out, whole = tmp_path / "scores.csv", tmp_path / "whole.csv"
    stop_after(out, 2)
    for name in (f"{UNFINISHED}7.csv", f"{UNFINISHED}7.json"):
        (Path(f"{out}.parts") / name).write_text("cut sho")
    assert work(out) == [2, 3]
    work(whole)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "whole.csv"]


@pytest.mark.parametrize("left", [b"", bytes(100), bytes(200_000), b"\xff,\xff\n"])
def test_a_part_that_lost_its_rows_is_named(tmp_path, left):
    out = tmp_path / "scores.csv"
    stop_after(out, 4)
    cut = Path(f"{out}.parts") / "0000001.csv"
    cut.write_bytes(left)  # as after a power cut
    with pytest.raises(OutputError, match=r"0000001.csv is damaged, or a part of other work: "):
        work(out)
    assert not out.exists()
    cut.unlink()
    assert work(out) == [1]


def test_files_that_are_no_parts_are_kept(tmp_path):
    note = tmp_path / "scores.csv.parts" / "notes.txt"
    note.parent.mkdir()
    note.write_text("mine")
    with pytest.raises(OutputError, match=r"holds notes.txt, which is no part .* it, or give"):
        work(tmp_path / "scores.csv")
    assert note.read_text() == "mine"


def test_parts_of_other_work_are_neither_used_nor_deleted(tmp_path):
    out = tmp_path / "scores.csv"
    film = tmp_path / "0.jpg"
    film.write_text("film")
    films = [str(film), *names()]
    stop_after(out, 1, films=films)
    said = r"0000000.csv is damaged, or a part of other work: another run, .* or give another file"
    for others, settings in [(films[:-1], "this"), (films[::-1], "this"), (films, "that")]:
        with pytest.raises(OutputError, match=said):
            with open_parts(out, others, {"run": settings}, SMALL):
                pytest.fail("parts were given")
    film.write_text("changed")
    with pytest.raises(OutputError, match=said):
        stop_after(out, 1, films=films)
    assert kept(out) == 1


def test_an_output_in_use_is_refused_and_a_dead_process_releases_it(tmp_path):
    out = tmp_path / "scores.csv"
    child = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_parts import names, open_parts, row
with open_parts({str(out)!r}, names(), {{"run": "this"}}, 16) as parts:
    number, films = next(parts.todo())
    parts.write(number, [row(film) for film in films])
    print("holds", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", child], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout.readline() == b"holds\n"
        with pytest.raises(OutputError, match=r"scores.csv is being written by another process. W"):
            work(out)
        process.kill()
    assert work(out) == [1, 2, 3]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", mount]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk, and not in every container")
    yield mount
    subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_a_full_disk_ends_in_a_sentence_and_keeps_what_is_done(small_disk, tmp_path, name):
    out, whole = small_disk / name, tmp_path / name
    (small_disk / "other").write_bytes(bytes(50_000))
    with pytest.raises(OutputError) as stopped:
        work(out, 1000)
    done = kept(out)
    assert 0 < done < 63
    assert f"{name} cannot be written: No space left on device. {done} finished parts are" in str(
        stopped.value
    )
    assert str(stopped.value).endswith("give the same command again: it goes on.")
    assert not list(small_disk.rglob(f"{UNFINISHED}*"))
    (small_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert work(out, 1000) == list(range(done, 63))
    work(whole, 1000)
    assert out.read_bytes() == whole.read_bytes()


def test_a_disk_without_room_for_the_list_of_films_keeps_nothing(small_disk):
    with suppress(OSError), open(small_disk / "other", "wb", buffering=0) as other:
        while True:
            other.write(bytes(4096))
    with pytest.raises(OutputError, match="No space left on device. 0 finished parts are kept in"):
        work(small_disk / "scores.csv", 1000)
    assert [path.name for path in small_disk.iterdir()] == ["other"]


def turn(folder, writable):
    """Let a folder be written to or not, by root too; skip the test where that cannot be."""
    if os.geteuid():
        folder.chmod(0o755 if writable else 0o555)
    elif subprocess.run(["chattr", "-i" if writable else "+i", folder]).returncode:
        pytest.skip("this file system cannot make a folder immutable")


@contextmanager
def read_only(folder):
    turn(folder, writable=False)
    try:
        yield
    finally:
        turn(folder, writable=True)


def test_a_folder_that_turns_read_only_ends_in_a_sentence_and_keeps_what_is_done(tmp_path):
    out = tmp_path / "scores.csv"
    said = "scores.csv cannot be written: .*(not permitted|denied). {} finished parts are kept in"
    with read_only(tmp_path), pytest.raises(OutputError, match=said.format(0)):
        work(out)  # there is no folder of parts yet
    with pytest.raises(OutputError, match=said.format(1)):
        with open_parts(out, names(), {"run": "this"}, SMALL) as parts:
            todo = parts.todo()
            number, films = next(todo)
            parts.write(number, [row(film) for film in films])
            with read_only(parts.folder):
                number, films = next(todo)
                parts.write(number, [row(film) for film in films])
    with read_only(parts.folder), pytest.raises(OutputError, match=said.format(1)):
        work(out)
    with read_only(tmp_path), pytest.raises(OutputError, match=said.format(4)):
        work(out)  # all is done, and there is no place for the whole
    assert work(out) == [] and [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_a_file_that_may_not_grow_keeps_all_parts(tmp_path, name):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / name
    try:  # enough for each part and the list of films, too little for the whole
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        with pytest.raises(OutputError, match="File too large. 4 finished parts are kept"):
            work(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not out.exists()
    assert work(out) == []


def test_parquet_without_pyarrow_is_refused_before_scoring(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OutputError, match=r"Parquet needs pyarrow: pip install '\.\[cluster\]' in"):
        work(tmp_path / "scores.parquet")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------- the command, for real


@pytest.fixture(scope="module")
def many(trained_run, tmp_path_factory):
    """A folder with 132 films, one of them broken."""
    folder = tmp_path_factory.mktemp("many")
    films = trained_run[1].films["path"]
    for n in range(132):
        (folder / f"{n:03}.jpg").symlink_to(Path(films[n % len(films)]).resolve())
    (folder / "131.jpg").unlink()
    (folder / "131.jpg").write_text("this is no picture")
    return folder


# The command `cxr`, which waits when it reads a film.
WAITING = """
import sys
from cxrlib import cli
from cxrlib.model import predict

read = predict.read_image

def read_or_wait(film, size):
    if str(film) == sys.argv[1]:
        print("waits", flush=True)
        sys.stdin.read()
    return read(film, size)

predict.read_image = read_or_wait
cli.main(sys.argv[2:])
"""


def test_cxr_score_killed_twice_gives_the_undisturbed_file(
    trained_run, small_run, many, tmp_path, capsys
):
    # Here, as the processes above import this module, and TensorFlow takes seconds.
    from cxrlib import cli
    from cxrlib.scoring.write import PART, write_scores

    out, whole = tmp_path / "scores.csv", tmp_path / "whole.csv"
    arguments = list(map(str, ["score", trained_run[0], many, "--out", out]))
    for film, found in (("020", 0), ("130", 2)):  # where it stops, and the parts before
        waiting = [sys.executable, "-c", WAITING, many / f"{film}.jpg", *arguments]
        with subprocess.Popen(waiting, stdin=PIPE, stdout=PIPE) as process:
            assert process.stdout.readline() == b"waits\n"
            with pytest.raises(OutputError, match="is being written by another process"):
                write_scores(small_run, [many], out)
            process.kill()
        assert kept(out) == found and not out.exists()
    capsys.readouterr()
    cli.main(arguments)
    told, progress = capsys.readouterr()
    assert told == f"{out}: 131 ok, 1 unreadable\n"
    # It goes on, does not start anew, and the films of before are not in the rate.
    assert min(int(n) for n in re.findall(r"(\d+)/132", progress)) == found * PART
    write_scores(small_run, [many], whole)
    assert out.read_bytes() == whole.read_bytes()
    assert read_scores(out)["path"].tolist() == [str(path) for path in sorted(many.iterdir())]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "whole.csv"]


def test_a_film_a_pipe_or_a_device_is_not_overwritten(tmp_path):
    for name in ("film.jpg", "film.DCM", "scores.xlsx", "scores"):
        (tmp_path / name).write_text("the only copy")
        with pytest.raises(OutputError, match=f"{name}: give a file whose name ends in .csv or"):
            work(tmp_path / name)
        assert (tmp_path / name).read_text() == "the only copy"
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("pipe.csv", "/dev/null"):
        with pytest.raises(FileNotFoundError, match="give a file in a folder that exists"):
            work(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 5


def test_only_a_table_of_scores_is_replaced(tmp_path):
    contents = {
        "labels.csv": b"filename,label\n1.jpg,No Finding\n",
        "film.csv": bytes(128) + b"DICM",
        "broken.parquet": b"PAR1",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    pd.DataFrame({"filename": ["1.jpg"]}).to_parquet(tmp_path / "other.parquet")
    for name in (*contents, "other.parquet"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(OutputError, match=f"{name} is there and is not a table of scores: gi"):
            work(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    for name in ("new.csv", "new.parquet"):
        (tmp_path / name).touch()  # as mktemp does
        work(tmp_path / name)
        work(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 6


def test_nothing_is_deleted_or_written_where_a_link_leads(tmp_path):
    theirs, out = tmp_path / "theirs", tmp_path / "scores.csv"
    theirs.mkdir()
    (theirs / "0000000.csv").write_text("the only copy")
    parts = tmp_path / "scores.csv.parts"
    for make in (lambda: parts.symlink_to("theirs"), parts.touch):
        make()
        with pytest.raises(OutputError, match="scores.csv.parts is no folder: move it, or give an"):
            work(out)
        parts.unlink()
    parts.mkdir()
    for name in (f"{UNFINISHED}7.csv", "0000000.csv"):
        (parts / name).symlink_to(theirs / "0000000.csv")
        with pytest.raises(OutputError, match=f"holds {name}, which is no part"):
            work(out)
        os.replace(parts / name, theirs / "link")
        os.mkfifo(parts / name)
        with pytest.raises(OutputError, match=f"holds {name}, which is no part"):
            work(out)
        (parts / name).unlink()
    assert (theirs / "0000000.csv").read_text() == "the only copy"


def test_a_changed_value_in_a_part_is_found(tmp_path):
    out = tmp_path / "scores.csv"
    for change in ("value", "place"):
        stop_after(out, 4)
        first, second = (Path(f"{out}.parts") / f"000000{n}.csv" for n in (1, 2))
        if change == "value":
            content = first.read_text()
            assert "negative" in content
            first.write_text(content.replace("negative", "positive", 1))
        else:
            second.write_bytes(first.read_bytes())
        said = f"000000{1 if change == 'value' else 2}.csv is damaged, or a part of other work: "
        with pytest.raises(OutputError, match=said):
            work(out)
        first.unlink()
        second.unlink()
        assert work(out) == [1, 2]


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_a_spreadsheet_runs_no_name_and_the_reader_gives_it_back(tmp_path, name):
    starts = ["=", "+", "-", "@", "\t", "\n", "\uff1d", "./x", "../", ""]
    films = [f'{start}HYPERLINK("//a.b";1).jpg' for start in starts]
    with open_parts(tmp_path / name, films, {}, 4) as parts:
        for number, some in parts.todo():
            parts.write(number, [(film, "ok", 0.5, "negative", "") for film in some])
        parts.finish()
    assert read_scores(tmp_path / name)["path"].tolist() == films
    if name.endswith(".csv"):
        written = pd.read_csv(tmp_path / name, keep_default_na=False)["path"]
    else:
        written = pd.read_parquet(tmp_path / name)["path"]
    assert not any(path[0] in "=+-@\t\r\n\uff1d" for path in written)
    assert [os.path.normpath(path) for path in written] == [os.path.normpath(f) for f in films]


def test_a_link_to_a_table_is_followed(tmp_path):
    work(tmp_path / "scores.csv", 10)
    (tmp_path / "link.csv").symlink_to("scores.csv")
    work(tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert len(read_scores(tmp_path / "scores.csv")) == FILMS
    assert {path.name for path in tmp_path.iterdir()} == {"link.csv", "scores.csv"}


def test_tables_of_other_people_are_no_parts(tmp_path):
    folder = tmp_path / "scores.csv.parts"
    folder.mkdir()
    (folder / "2023.csv").write_text("of a user")
    with pytest.raises(OutputError, match="holds 2023.csv, which is no part"):
        work(tmp_path / "scores.csv")
    assert (folder / "2023.csv").read_text() == "of a user"
