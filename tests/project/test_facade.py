"""`import cxrlib as cxr`: every name is there and has an example, and loads what it needs alone."""

import ast
import doctest
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from matplotlib import pyplot as plt

import cxrlib as cxr

ROOT = Path(__file__).parents[2]
STUB = ast.parse((ROOT / "cxrlib" / "__init__.pyi").read_text())
NAMES = {alias.asname: node.module for node in STUB.body[:-2] for alias in node.names}


@cache
def once(function):
    """Return a function that keeps what it has returned."""
    return cache(function)


@pytest.mark.parametrize("name", [*NAMES, "versions"])
def test_each_name_has_an_example_that_runs(name, monkeypatch, tmp_path):
    from cxrlib.model.run import load_run

    thing = getattr(cxr, name)
    examples = [
        test
        for test in doctest.DocTestFinder(recurse=False).find(thing, name, globs={})
        if test.examples
    ]
    assert examples, f"{name} has no '>>>' in its docstring"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plt.switch_backend("agg")
    monkeypatch.setattr(cxr, "load_run", once(load_run))  # many load it, which takes seconds
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in examples:
        assert runner.run(test).failed == 0, f"{name}: the example gives something else"
    plt.close("all")


def test_the_facade_names_the_core_alone_and_no_more_than_a_reader_can_hold():
    assert sorted(NAMES) == sorted(cxr.__all__)
    rooms = {module.split(".")[0] for module in NAMES.values()}
    assert rooms == {"data", "metrics", "model", "plots", "widgets"}
    assert len(NAMES) <= 50
    assert cxr.__version__ == cxr.versions()["cxrlib"]


def loaded_by(code):
    """Return the top-level modules that a fresh Python holds after `code`, run at the root."""
    report = "\nimport json, sys; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    command = [sys.executable, "-c", code + report]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_facade_loads_nothing_heavy_before_it_is_used():
    heavy = {"numpy", "pandas", "matplotlib", "sklearn", "scipy", "PIL", "keras", "tensorflow"}
    assert not loaded_by("import cxrlib") & heavy
    assert not loaded_by("import cxrlib.cli") & heavy


def test_looking_at_films_loads_no_tensorflow():
    code = (
        "import matplotlib; matplotlib.use('Agg')\n"
        "import cxrlib as cxr\n"
        "study = cxr.read_study('medical')\n"
        "films = cxr.choose_films(study, 'Cardiomegaly')\n"
        "cxr.show_films(films.head(2), study.findings)\n"
        "cxr.plot_findings(study.films), cxr.plot_patients(study.films)\n"
        "cxr.Browser(study)\n"
        "scores = films.assign(probability=films['target'] * 0.5)\n"
        "cxr.Explorer(scores, 0.4)\n"
    )
    assert not loaded_by(code) & {"tensorflow", "keras"}


def test_help_is_answered_by_the_standard_library():
    """`cxr --help` within half a second on an idle machine: it imports next to nothing."""
    code = "import sys; sys.argv = ['cxr', '--help']\nfrom cxrlib.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass"
    outside = loaded_by(code) - set(sys.stdlib_module_names)
    assert {name for name in outside if not name.startswith("_")} <= {
        "cxrlib",
        "lazy_loader",
        "packaging",
        "sitecustomize",
    }
