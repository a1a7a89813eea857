"""The files that set the project up agree with each other."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
CONDA_NAMES = {"matplotlib-base": "matplotlib"}  # the same package without its Qt window


def requirements(lines):
    return {canonicalize_name(r.name): r.specifier for r in map(Requirement, lines)}


def declared():
    """Return what pyproject.toml asks for, extras included, as {name: specifier}."""
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    return requirements(sum(extras, PYPROJECT["project"]["dependencies"]))


ALWAYS = requirements(PYPROJECT["project"]["dependencies"])
DECLARED = declared()
OWNERS = packages_distributions()


def locked():
    """Return the lock's entries as {name: (version, number of hashes)}."""
    entries = re.findall(r"^([\w.-]+)==([^\s;\\]+)[^\n]*\n((?:    --hash=\S+.*\n)*)", LOCK, re.M)
    return {canonicalize_name(name): (v, hashes.count("sha256:")) for name, v, hashes in entries}


def test_environment_yml_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert environment["channels"][0] == "conda-forge" and conda[1] == "pip"
    assert pip["pip"][-1] == "-e ."
    ours = requirements([*conda, *pip["pip"][:-1]])
    python = ours.pop("python")
    del ours["pip"]
    assert {CONDA_NAMES.get(name, name): floor for name, floor in ours.items()} == DECLARED
    assert set(python) >= set(Requirement(f"x{PYPROJECT['project']['requires-python']}").specifier)


@pytest.mark.parametrize("name, specifier", DECLARED.items())
def test_lock_satisfies_pyproject(name, specifier):
    version, _ = locked()[name]
    assert specifier.contains(version)


def test_lock_holds_a_hash_for_each_package_and_no_host():
    assert len(locked()) == len(re.findall("==", re.sub(r";.*", "", LOCK))) > 100
    assert all(hashes for _, hashes in locked().values())
    rest = re.sub(r"--hash=\S+", "", LOCK)
    assert not re.search(r"://|@|--(extra-)?index|--find-links|--trusted", rest)
    assert not re.search(r"\b[\w-]+\.(org|com|net|io|local)\b|(^|\s)/\w", rest)


SCRIPTS = [*(ROOT / "notebooks").glob("*.py"), *(ROOT / "tools").glob("*.py")]


@pytest.mark.parametrize(
    "path", sorted([*(ROOT / "cxrlib").rglob("*.py"), *SCRIPTS]), ids=lambda path: path.name
)
def test_every_import_is_declared(path):
    """What the library imports at a module's head comes with it, the rest may be an extra's."""
    own = {"cxrlib"} | {script.stem for script in SCRIPTS}
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module]
        asked_for = ALWAYS if node in tree.body and path not in SCRIPTS else DECLARED
        for top in {module.split(".")[0] for module in modules} - own - sys.stdlib_module_names:
            known = {canonicalize_name(owner) for owner in OWNERS.get(top, ())} & asked_for.keys()
            assert known, f"{path.name} imports {top}: add it to pyproject.toml"


CORE = {"data", "metrics", "model", "plots", "widgets"}
MAY_IMPORT = {
    "data": set(),
    "metrics": set(),
    "phantom": set(),
    "model": {"data", "metrics"},
    "plots": {"data", "metrics"},
    "widgets": {"data", "metrics", "model", "plots"},
    "audit": CORE,
    "scoring": CORE,
    "deploy": CORE,
}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_lies_before_it(room):
    for path in (ROOT / "cxrlib" / room).rglob("*.py"):
        tree = ast.parse(path.read_text())
        ifs = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
        ifs = [node for node in ifs if ast.unparse(node.test) == "TYPE_CHECKING"]
        for_types = {id(node) for each in ifs for node in each.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                assert "cxrlib" not in names, f"{path}: the facade would bring every room"
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name}: write imports in full"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            used = {name.split(".")[1] for name in names if name.startswith("cxrlib.")}
            used -= {room, "versions"}
            if room == "plots" and id(node) in for_types:
                used -= {"model"}
            assert used <= MAY_IMPORT[room], f"{path}: {used}"


def test_every_room_has_its_directions():
    rooms = {path.parent.name for path in (ROOT / "cxrlib").glob("*/__init__.py")}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "cxrlib").rglob("*.py")),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_a_module_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 250, "split it, or do less by hand"


def test_an_index_can_show_the_package():
    project = PYPROJECT["project"]
    assert not re.search(r"!\[|\]\((?!https:)|<img", project["readme"]["text"])
    assert project["keywords"] and project["license"] == "MIT"
    assert all(url.startswith("https://") for url in project["urls"].values())
    for minor in (11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in project["classifiers"]
    licences = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("cxrlib/**/LICENSE*")}
    assert set(project["license-files"]) == {"LICENSE", *licences}


def test_a_wheel_holds_the_bundled_run():
    ((place, patterns),) = PYPROJECT["tool"]["setuptools"]["data-files"].items()
    shipped = {path for pattern in patterns for path in ROOT.glob(pattern)}
    run = ROOT / "medical" / "models" / "cardiomegaly"
    files = {"run.json", "MODEL_CARD.md", *json.loads((run / "run.json").read_text())["files"]}
    assert {run / name for name in files} <= shipped
    assert place == "share/cxrlib/cardiomegaly"


def test_nobody_is_sent_to_an_index_for_the_package():
    for path in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split():
        if Path(path).suffix in {".py", ".md", ".ipynb", ".yml", ".toml"}:
            assert not re.search(r"pip install\W+cxrlib", (ROOT / path).read_text()), path


def test_bare_make_lists_every_target():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    targets = "run check test portable campaign lab notebooks book lock clean"
    for target in targets.split():
        assert re.search(rf"^  {target} +\w", done.stdout, re.M)


def test_the_lab_starts_in_a_container_whose_user_is_root():
    done = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True)
    assert "jupyter lab --allow-root --notebook-dir=notebooks" in done.stdout


@pytest.fixture
def make_run(tmp_path):
    """A function that calls `make run` with a Python that prints its arguments, one a line."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)

    def call(*given, **environment):
        command = ["make", "--silent", "-o", ".venv/ready", f"BIN={tmp_path}", "run", *given]
        environment |= {"PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return call


def test_run_passes_on_what_the_command_line_gives_and_not_the_environment(make_run):
    given = ["FINDING=Effusion", "STUDY=my films", "RUN=here"]
    wanted = ["--finding", "Effusion", "--study", "my films", "--run", "here"]
    assert make_run(*given) == ["notebooks/execute.py", *wanted]
    assert make_run(RUN="1", STUDY="x") == ["notebooks/execute.py"]


@pytest.mark.parametrize(
    "finding", ['a"; echo b; "', "a'b", "$(shell echo b)", "`echo b`", "$HOME"]
)
def test_no_shell_reads_what_the_command_line_gives(make_run, finding):
    assert make_run(f"FINDING={finding}") == ["notebooks/execute.py", "--finding", finding]


def test_every_place_names_the_same_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    logged = re.search(r"^## (\d\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert cited == logged == PYPROJECT["project"]["version"]


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_ten_lines_of_the_readme_run(tmp_path, monkeypatch):
    from cxrlib.model.run import Run  # marks this test as one that loads TensorFlow

    code = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "medical").symlink_to(ROOT / "medical")
    names = {}
    exec(code, names)
    assert len(names["scores"]) and (names["scores"]["status"] == "ok").all()
    assert isinstance(names["run"], Run) and names["run"].folder.samefile("runs/first")


def test_an_old_python_is_told_what_to_do(tmp_path):
    old = tmp_path / "python3"
    old.write_text(
        "#!/bin/sh\n"
        f'exec {sys.executable} -c "import sys; sys.version_info = (3, 10); exec(sys.argv.pop(1))"'
        ' "$2"\n'
    )
    old.chmod(0o755)
    command = ["make", "--always-make", f"PYTHON={old}", ".venv/locked"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr and "is 3.10." in done.stderr


def test_ci_runs_all_tests_and_can_be_started():
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.M)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][-1]["run"] == ".ci/run"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
