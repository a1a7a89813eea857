"""`make campaign` in small; and planted faults, which it must find."""

import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

import campaign
import kills
from campaign import Table, damage_films, main
from cxrlib.data.images import ImageError
from damage import make_originals
from kills import Attacks, Fault, check_run, end_strays
from reading import judge


def test_a_small_campaign_holds(tmp_path, capsys):
    assert main(["--files", "66", "--kills", "1"], tmp_path / "kept") == 0
    shown = capsys.readouterr().out
    rows = dict(re.findall(r"^\| (\w[\w -]+) \|(.+)\|$", shown, re.M))
    kinds = {kind: [int(n) for n in row.split("|")] for kind, row in rows.items() if kind != "kind"}
    assert kinds["all"][0] == 67 and kinds["all"][3:] == [0, 0, 0]
    assert all(tried == read + clear for tried, read, clear, *_ in kinds.values())
    assert [row for kind, row in kinds.items() if "killed" in kind] == [[1, 1, 0, 0, 0, 0]]
    assert len(kinds) == 13 and min(kinds["all"][1:3]) > 5
    assert re.search(r"Complete after \d+ s\. Seed 0\. .*pillow \d.*pydicom \d.*libtiff \d", shown)
    assert not list((tmp_path / "kept" / "films").iterdir())


def test_what_is_interrupted_shows_what_it_has(tmp_path, capsys, monkeypatch):
    def interrupted(paths, *_):
        yield next(paths), "read", ""
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "read_all", interrupted)
    assert main(["--files", "66"], tmp_path / "kept") == 1
    shown = capsys.readouterr().out
    assert "| all | 1 | 1 | 0 | 0 | 0 | 0 |" in shown and "Interrupted after" in shown


def test_damage_is_the_same_for_the_same_seed(tmp_path):
    from damage import damage

    (tmp_path / "a").mkdir()
    for kind, files in make_originals(tmp_path / "a").items():
        for name, whole in files.items():
            made = [damage(name, whole, np.random.default_rng([3, n])) for n in (0, 0, 1, 2, 4, 5)]
            assert made[0] == made[1] and len({*made, whole}) > 3, kind


def raises(path):
    raise KeyError("Rows")


def quotes(path):
    raise ImageError(path, "the chunk b'IHDR' of the file")


def tells_nothing(path):
    raise ImageError(path, "KeyError")


def hangs(path):
    time.sleep(600)


def dies(path):
    os._exit(1)


def is_not_a_number(path):
    return np.full((9, 9), np.nan, np.float32)


def is_too_bright(path):
    return np.full((9, 9), 1.5, np.float32)


@pytest.mark.parametrize("fault", [raises, quotes, tells_nothing, is_not_a_number, is_too_bright])
def test_a_reader_with_a_fault_is_wrong(tmp_path, fault):
    assert judge(tmp_path / "film.png", [fault], "secret")[0] == "wrong"


@pytest.mark.parametrize(
    ("fault", "result"), [(hangs, "without end"), (dies, "wrong"), (is_not_a_number, "wrong")]
)
def test_a_fault_of_every_film_is_counted_and_the_films_are_kept(tmp_path, fault, result):
    table = Table()
    damage_films(table, tmp_path / "films", 3, seed=0, ways=(fault,), seconds=1)
    assert sum(count[result] for count in table.counts.values()) == table.bad == 3
    assert len(list((tmp_path / "films").iterdir())) == len(table.faults) == 3


# A command that a kill disturbs: it leaves a part that no later process deletes, a process that
# goes on, a file that is not whole, or it does not go on.
FAULTS = {
    "part": "part = work / f'{os.getpid()}.part'; part.touch(); wait(); part.unlink()",
    "process": "subprocess.Popen(['sleep', '60']); (work / 'a').touch(); wait()",
    "content": "old = len(list(work.iterdir())); (work / 'a').touch(); wait()\n"
    "(work / 'a').write_text('x' * old)",
    "refuses": "(work / 'a').mkdir(); wait()",
}
HEAD = """
import os, subprocess, sys, time
from pathlib import Path
work = Path(sys.argv[1])
wait = lambda: time.sleep(1)
"""
TAIL = "\n(work / 'done').touch()"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("part", r"\d+\.part was left behind"),
        ("process", "1 processes were left behind: sleep"),
        ("content", "a is another than undisturbed"),
        ("refuses", "the command fails: FileExistsError"),
    ],
)
def test_a_command_with_a_fault_is_found(tmp_path, monkeypatch, fault, said):
    monkeypatch.setattr(kills, "LINGER", 0.5)
    attacks = Attacks(tmp_path, seed=0)
    if fault == "process":
        attacks.usual["downloading"] = 1
    command = [sys.executable, "-c", HEAD + FAULTS[fault] + TAIL]
    monkeypatch.setattr(attacks, "_command", lambda _, place: [*command, place / "work"])
    result, why = attacks.attack("downloading", 0)
    assert result == "lost" and re.search(said, why), why


def test_a_command_without_end_is_found(tmp_path, monkeypatch):
    attacks = Attacks(tmp_path, seed=0)
    attacks.usual["downloading"] = 0.5
    monkeypatch.setattr(kills, "WAIT", 1)
    command = "touch $0/a && exec sleep 60"
    monkeypatch.setattr(attacks, "_command", lambda _, at: ["sh", "-c", command, at / "work"])
    assert attacks.attack("downloading", 0)[0] == "without end"


def test_a_place_without_a_run_is_found(tmp_path):
    with pytest.raises(Fault, match="no run is at its place"):
        check_run(tmp_path)
    (tmp_path / "run.json").write_text('{"files": {"head.keras": "0"}}')
    (tmp_path / "head.keras").touch()
    with pytest.raises(Fault, match="head.keras is of another run"):
        check_run(tmp_path)


def test_a_process_that_stays_is_ended(monkeypatch):
    monkeypatch.setattr(kills, "LINGER", 0.1)
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, kills.TOKEN: "this"})
    end_strays("another")
    with pytest.raises(Fault, match="left behind"):
        end_strays("this")
    assert process.wait(5) == -9
