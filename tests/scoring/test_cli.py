"""The command `cxr` by its words: help, bounds, closed streams, tables on the screen."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cxrlib import cli

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "medical" / "models" / "cardiomegaly"
CXR = Path(sys.executable).with_name("cxr")


def parsers():
    (commands,) = [a for a in cli.build_parser()._actions if isinstance(a.choices, dict)]
    return commands.choices


def test_alone_it_shows_its_help(capsys):
    cli.main([])
    shown = capsys.readouterr().out
    assert shown == cli.build_parser().format_help() and "not a medical device" in shown
    assert all(f"\n    {name} " in shown for name in parsers())


def test_it_says_its_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("cxr 0.")


@pytest.mark.parametrize("name", parsers())
def test_every_option_is_explained_with_its_default(name):
    for action in parsers()[name]._actions:
        assert action.help
        if action.option_strings and not isinstance(action, argparse._HelpAction):
            assert "(default: " in action.help or (action.required and "required" in action.help)


@pytest.mark.parametrize("closed", ["0", "1", "2"])
def test_a_closed_stream_stops_nothing(closed, medical):
    redirect = {"0": "<&-", "1": ">&-", "2": "2>&-"}[closed]
    done = subprocess.run(
        f'"{CXR}" study "{medical}" {redirect}', shell=True, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ("radiographs" in done.stdout) == (closed != "1")


def test_a_reader_that_has_read_enough_is_no_error(medical):
    taken, given = os.pipe()
    os.close(taken)
    done = subprocess.run([CXR, "study", medical], stdout=given, stderr=subprocess.PIPE)
    os.close(given)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["phantom", "--out", "x", "--patients", "1000000000"], "is 1000000000: give 1 to 100,000"),
        (["score", "run", "film.png", "--workers", "2"], "several processes: give --out FILE"),
        (["study", "nowhere/at/all"], "nowhere/at/all"),
        (["study", "/dev/null"], "/dev/null"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code.startswith("cxr: ") and message in ended.value.code
    assert "\n" not in ended.value.code and "Errno" not in ended.value.code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diagnose"], f"invalid choice: 'diagnose' (choose from {', '.join(parsers())})"),
        (["score"], "the following arguments are required: RUN, PATH"),
        (["score", "run", "--out", "x.csv"], "the following arguments are required: PATH"),
        (["download", "everything"], "invalid choice: 'everything'"),
        (["phantom"], "the following arguments are required: --out"),
        (["phantom", "--patients", "many", "--out", "x"], "--patients: invalid int value: 'many'"),
    ],
)
def test_wrong_arguments_end_with_usage_and_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    shown, said = capsys.readouterr()
    assert ended.value.code == 2 and shown == "" and said.startswith("usage: cxr")
    quoted = ", ".join(f"'{command}'" for command in parsers())  # by older versions of Python
    assert message in said.replace(quoted, ", ".join(parsers()))


@pytest.fixture
def scored(monkeypatch):
    """A stand-in for scoring, that keeps which run and films it was given."""
    given = {}

    def score_films(run, films, check):
        given.update(run=run, films=films, check=check)
        rows = [(str(film), "ok", 0.25, "negative", "") for film in films[:-1]]
        rows.append((str(films[-1]), "unreadable", np.nan, "", "the file does not exist"))
        return pd.DataFrame(rows, columns=["path", "status", "probability", "decision", "reason"])

    def load_run(folder):
        return SimpleNamespace(folder=folder, caution="Simulated." * (folder == str(BUNDLED)))

    stand_ins = {"predict": {"score_films": score_films}, "run": {"load_run": load_run}}
    for name, names in stand_ins.items():
        monkeypatch.setitem(sys.modules, f"cxrlib.model.{name}", SimpleNamespace(**names))
    return given


def test_a_few_scores_are_shown(scored, capsys):
    cli.main(["score", "bundled", "a.png", "b\x1b[2J.png", "--no-check"])
    assert scored["run"].folder == str(BUNDLED)
    assert scored["films"] == [Path("a.png"), Path("b\x1b[2J.png")] and not scored["check"]
    said = capsys.readouterr()
    assert said.err == "cxr: Simulated.\n"
    header, first, second = said.out.splitlines()
    assert header.split() == ["path", "status", "probability", "decision", "reason"]
    assert first.split() == ["a.png", "ok", "0.25", "negative"]
    assert second.split()[:2] == [r"b\x1b[2J.png", "unreadable"] and "nan" not in second.lower()


def test_many_scores_want_a_file(scored):
    with pytest.raises(SystemExit, match="more than 100 radiographs, .*: give --out FILE"):
        cli.main(["score", "run", *["a.png"] * 101])
    assert not scored


def test_the_bundled_run_of_an_installation_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "cxrlib" / "cli.py"))
    with pytest.raises(argparse.ArgumentTypeError, match="no run was installed with cxrlib: give"):
        monkeypatch.setattr(cli, "files", lambda _: None)
        cli._find_run("bundled")
    run = tmp_path / "share" / "cxrlib" / "cardiomegaly" / "run.json"
    run.parent.mkdir(parents=True)
    run.touch()

    class Installed:
        name = "run.json"

        def locate(self):
            return run

    monkeypatch.setattr(cli, "files", lambda _: [Installed()])
    assert cli._find_run("bundled") == str(run.parent)
    assert cli._find_run("runs/mine") == "runs/mine"
