"""Marks on tests by what they use, so that `make check` can leave the slow ones out.

A test is marked by the names that it, its fixtures and the helpers beside it mention: nobody has to
remember a mark. What is left without `tensorflow` is held to it while it runs (see conftest.py).
"""

import ast
import dis
import inspect
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
FACADE = dict(
    (name, module)
    for module, name in re.findall(
        r"^from \.(\S+) import (\w+)", (ROOT / "cxrlib" / "__init__.pyi").read_text(), re.M
    )
)
KERAS = ROOT / "cxrlib" / "model" / "_keras.py"
GLOBAL = "LOAD_GLOBAL"
PROCESS = {"subprocess", "ProcessPoolExecutor", "LocalCluster", "make_study", "serve_lab"}
PROCESS |= {"read_all", "Attacks"}  # of tests/robustness
PROCESS.add("run_path")  # of notebooks/execute.py, which starts kernels


def files_of(name: str) -> list[Path]:
    """Return the files that importing a module runs, those of other packages aside."""
    top, *rest = name.split(".")
    if top in ("keras", "tensorflow"):
        return [KERAS]
    if top != "cxrlib":
        return []
    place = ROOT.joinpath(
        top, *(FACADE[rest[0]].split(".") if rest and rest[0] in FACADE else rest)
    )
    files = [place.with_suffix(".py"), place / "__init__.py", place.parent / "__init__.py"]
    return [file for file in files if file.is_file()]


@cache
def imports_of(path: Path) -> list[Path]:
    """Return the files that a file imports, by the lines at its margin."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [file for name in names for file in files_of(name)]


@cache
def loads_tensorflow(path: Path) -> bool:
    """Return whether importing a file loads TensorFlow, which `KERAS` alone does in the library."""
    seen, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += imports_of(file)
    return KERAS in seen


@cache
def names_reached(function) -> set[str]:
    """Return the names that a function of the tests mentions, helpers in tests/ included."""
    waiting, seen, names = [inspect.unwrap(function)], set(), set()
    while waiting:
        function = waiting.pop()
        codes = [function.__code__]
        for code in codes:
            names |= {*code.co_names}
            codes += filter(inspect.iscode, code.co_consts)
            for step in dis.get_instructions(code):
                other = function.__globals__.get(step.argval) if step.opname == GLOBAL else None
                if inspect.isfunction(other) and is_ours(other) and other not in seen:
                    seen.add(other)
                    waiting.append(other)
    return names


def is_ours(function) -> bool:
    return Path(function.__code__.co_filename).is_relative_to(TESTS)


def marks_of(item) -> set[str]:
    """Return the marks that a collected test gets for what it uses."""
    found = [each for several in item._fixtureinfo.name2fixturedefs.values() for each in several]
    fixtures = [each.func for each in found if is_ours(inspect.unwrap(each.func))]
    names = set().union(*map(names_reached, [item.function, *fixtures]))
    files = [item.path]
    for name in names:
        files += files_of(f"cxrlib.{name}" if name in FACADE else name)
    marks = set()
    if any(map(loads_tensorflow, files)):
        marks.add("tensorflow")
    if names & PROCESS:
        marks.add("process")
    if "chromium" in item.fixturenames:
        marks.add("browser")
    return marks
