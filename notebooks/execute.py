"""Execute the notebooks in order, as `make run` does.

They go to runs/notebooks/ as ipynb and HTML. The first that fails ends it, and what it had executed
stays there. With --in-place the committed notebooks are replaced too, once all have succeeded.
"""

import argparse
import ast
import base64
import hashlib
import io
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
import unicodedata
from pathlib import Path

import nbformat
import papermill
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from papermill.engines import NBClientEngine, papermill_engines
from PIL import Image
from traitlets.config import Config

NOTEBOOKS = Path(__file__).resolve().parent
RUNS = NOTEBOOKS.parent / "runs"
BUNDLED = NOTEBOOKS.parent / "medical" / "models" / "cardiomegaly"
FOLDERS = {"cardiomegaly", "checkpoints", "features", "notebooks"}  # of RUNS, taken already
VARIABLES = ("CXR_DATA", "CXR_RUN", "CXR_NIH")
# Without it every kernel warns that it talks in plain text.
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})
WIDGET = "application/vnd.jupyter.widget-view+json"
CHECKED = "nbval-check-output"  # nbval's tag of cells whose output must not change
PICTURE = "picture"  # tag of the cell whose figure opens its notebook, as pictures/NOTEBOOK.png
# It warns of each line of the parameters with two equals signs, as in a comment on them.
logging.getLogger("papermill").setLevel(logging.ERROR)
AUC_MOVES = 0.02  # between processors; another split or head moves it further
# Seconds of each notebook on the bundled study, two cores: how much of the series is behind.
SECONDS = {"01": 20, "02": 110, "03": 35, "04": 45, "05": 45, "06": 100, "07": 25, "08": 75}
SECONDS |= {"09": 110}


class Progress:
    """Says which notebook runs, under which heading, for how long, and about how long still.

    On a terminal one line that is renewed each second, elsewhere a line per heading.
    """

    def __init__(self, sources: list[Path]):
        self.sources, self.start = sources, time.monotonic()
        self.weights = [SECONDS.get(source.name[:2], 60) for source in sources]
        self.renews = sys.stdout.isatty()
        self.at, self.share, self.heading, self.ended = -1, 0.0, "", threading.Event()
        if self.renews:
            threading.Thread(target=self._tick, daemon=True).start()

    def begin(self):
        self.at, self.share, self.heading = self.at + 1, 0.0, "starting"
        self.began = time.monotonic()
        self._show()

    def cell(self, notebook, index: int):
        """Take note of the cell that is run next."""
        above = [cell.source for cell in notebook.cells[:index] if cell.cell_type == "markdown"]
        headings = re.findall(r"^#+ (.+)", "\n".join(above), re.M)
        self.share, before = index / len(notebook.cells), self.heading
        self.heading = headings[-1] if headings else self.heading
        if self.renews or self.heading != before:
            self._show()

    def end(self):
        """End the line of a notebook with the seconds that it took."""
        name = self.sources[self.at].name
        line = f"[{self.at + 1}/{len(self.sources)}] {name}: {time.monotonic() - self.began:.0f} s"
        self.share, self.heading = 1, ""
        self._write(f"{line}\n")
        if self.at + 1 == len(self.sources):
            self.ended.set()

    def stop(self):
        """Leave the line of a notebook that failed as it is."""
        self.ended.set()
        print(flush=True)

    def _show(self):
        elapsed, done = time.monotonic() - self.start, sum(self.weights[: self.at])
        done += self.share * self.weights[self.at]
        # Before a tenth is done, the pace of other machines says more than this one's.
        known = max(0.0, min(1.0, done / sum(self.weights) * 10))
        pace = known * elapsed / max(done, 1) + 1 - known
        left = (sum(self.weights) - done) * pace / 60
        when = f"about {left:.0f} min left" if left >= 1 else "less than a minute left"
        name = f"[{self.at + 1}/{len(self.sources)}] {self.sources[self.at].name}"
        clock = f"{elapsed // 60:.0f}:{elapsed % 60:02.0f}"
        text = f"{name}  {clock}, {when}  {self.heading}"
        if self.renews:
            text = text[: shutil.get_terminal_size().columns - 1]
        self._write(text if self.renews else f"{text}\n")

    def _write(self, text: str):
        print(f"\r\x1b[K{text}" if self.renews else text, end="", flush=True)

    def _tick(self):
        while not self.ended.wait(1):
            if self.heading:
                self._show()


class Told(NBClientEngine):
    """papermill's engine, which tells a Progress of each cell that it begins."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, progress=None, **how):
        begin = nb_man.cell_start

        def cell_start(cell, cell_index=None, **more):
            progress.cell(nb_man.nb, cell_index)
            return begin(cell, cell_index, **more)

        nb_man.cell_start = cell_start
        return super().execute_managed_notebook(nb_man, kernel_name, **how)


papermill_engines.register("told", Told)


def main():
    args = parse_arguments()
    # Kernels start in notebooks/, not where this was called.
    for name in VARIABLES:
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(os.environ[name])

    sources = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    known = {source: parameters_of(source) for source in sources}
    parameters = chosen_parameters(args)
    if unknown := parameters.keys() - set().union(*known.values()):
        sys.exit(f"No notebook has a parameter named {', '.join(sorted(unknown))}.")
    as_committed = not parameters and not any(map(os.environ.get, VARIABLES))

    run = Path(parameters.get("run") or os.environ.get("CXR_RUN") or RUNS / "cardiomegaly")
    # Notebook 02 writes the run anew: what an interrupted series scored was scored by another.
    shutil.rmtree(f"{run}-scores.csv.parts", ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    root = Path(os.path.relpath(NOTEBOOKS.parent, args.out)).as_posix()
    print(
        f"Executing {len(sources)} notebooks into {os.path.relpath(args.out)}. The bundled study "
        "takes 5 to 8 minutes on two cores.",
        flush=True,
    )
    progress = Progress(sources)
    for source in sources:
        progress.begin()
        executed = args.out / source.name
        own = {name: value for name, value in parameters.items() if name in known[source]}
        how = {"cwd": NOTEBOOKS, "config": ENCRYPTED, "progress_bar": False}
        how |= {"engine_name": "told", "progress": progress}
        try:
            papermill.execute_notebook(source, executed, own, **how)
        except papermill.PapermillExecutionError as error:
            progress.stop()
            sys.exit(f"{error}\n{source.name} failed; {executed} holds what was executed.")
        finally:
            if executed.exists():
                strip(executed, [parameters.get("study"), parameters.get("run")])
        progress.end()
        notebook = nbformat.read(executed, as_version=4)
        page, _ = HTMLExporter().from_notebook_node(notebook)
        soup = BeautifulSoup(page, "html.parser")
        describe_figures(soup)
        # Pictures and pages that the text names lie beside the committed notebooks.
        page = re.sub(r'(src|href)="\.\./', rf'\1="{root}/', str(soup))
        page = page.replace('src="pictures/', f'src="{root}/{NOTEBOOKS.name}/pictures/')
        executed.with_suffix(".html").write_text(page, encoding="utf-8")
        if as_committed and not args.in_place:
            compare_checked(source, notebook)

    if args.in_place:
        for source in sources:
            replace(source, args.out / source.name)
    if as_committed and not args.in_place and BUNDLED.exists():
        compare_auc(run)
    print(summary(run, args.out / "03_evaluate.html"))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, help="folder of a study")
    parser.add_argument("--finding", help="what to tell from No Finding")
    parser.add_argument("--run", type=Path, help="folder of the run (default: runs/FINDING)")
    parser.add_argument("--out", type=Path, default=RUNS / "notebooks", help="default: %(default)s")
    parser.add_argument("--in-place", action="store_true", help="renew the committed outputs")
    parser.add_argument(
        "-p",
        dest="others",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="any other parameter of the notebooks",
    )
    args = parser.parse_args()
    if args.in_place and (args.study or args.finding or args.run or args.others):
        parser.error("--in-place takes the notebooks' own parameters and no others")
    return args


def parameters_of(source):
    """Return the names that the cell tagged `parameters` assigns."""
    (cell,) = tagged(nbformat.read(source, as_version=4), "parameters")
    assigned = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
    return {target.id for node in assigned for target in node.targets}


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def chosen_parameters(args):
    """Return what papermill injects: absolute folders, and for each finding a run of its own."""
    parameters = {name: literal(value) for name, value in args.others}
    if args.finding:
        parameters["finding"] = args.finding
        if "CXR_RUN" not in os.environ:
            parameters["run"] = str(RUNS / folder_name(args.finding))
    for name in ("study", "run"):
        if folder := getattr(args, name):
            parameters[name] = str(folder.resolve())
    return parameters


def folder_name(finding):
    """Return the name of a finding's run: letters and digits, and its own for each finding.

    Spellings that a study takes for one finding (case, blanks, hyphens) give one name. What else
    is replaced or collides gets the start of a digest.
    """
    composed = unicodedata.normalize("NFC", finding).casefold()
    words = "_".join(re.split(r"[\s_-]+", composed.strip()))
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
    plain = re.sub(r"\W+", "_", plain)[:60]
    if plain == words and (plain == "cardiomegaly" or plain not in FOLDERS):
        return plain
    return f"{plain}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def literal(text):
    """Return the Python value that `text` writes (3e-4, None, True), else the text itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def compare_checked(source, executed):
    """End with an error where a checked cell shows another text than the committed notebook."""
    for old, new in zip(
        tagged(nbformat.read(source, as_version=4), CHECKED), tagged(executed, CHECKED), strict=True
    ):
        if texts(old) != texts(new):
            sys.exit(
                f"{source.name}: a checked cell shows something else than when it was committed.\n"
                f"{old.source}\ncommitted: {texts(old)}\nnow: {texts(new)}"
            )


def texts(cell):
    return "".join(
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for output in cell.outputs
        if output.get("name") != "stderr"
    )


def compare_auc(run):
    """End with an error where the run's test AUC is not that of the run that comes with it."""
    now, bundled = (read_test(folder)["auc"]["value"] for folder in (run, BUNDLED))
    if abs(now - bundled) > AUC_MOVES:
        sys.exit(f"The test AUC is {now:.3f}, that of the bundled run {bundled:.3f}.")


def replace(source, executed):
    """Put `executed` in the place of `source`, less what differs between any two executions."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.language_info = {"name": "python"}  # less the exact version of Python
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    keep_picture(notebook, source.parent / "pictures" / f"{source.stem}.png")
    whole = source.with_suffix(".tmp")
    nbformat.write(notebook, whole)
    os.replace(whole, source)


def keep_picture(notebook, file):
    """Write the figure of the cell tagged PICTURE, in 256 colours, so that it stays small."""
    for cell in tagged(notebook, PICTURE):
        file.parent.mkdir(exist_ok=True)
        (png,) = (each.data["image/png"] for each in cell.outputs if "image/png" in each.data)
        image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
        image.quantize(256).save(file, optimize=True)


def strip(executed, folders):
    """Take out of an executed notebook what tells of patients or of this machine and is not shown.

    That is the state of widgets, which names patients, and the paths of the project, of a home and
    of `folders`, here and in tracebacks.
    """
    notebook = stilled(nbformat.read(executed, as_version=4))
    notebook.metadata.pop("papermill", None)
    text = nbformat.writes(notebook)
    names = {path: Path(path).name for path in folders if path}
    names |= {
        os.environ[name]: Path(os.environ[name]).name for name in VARIABLES if name in os.environ
    }
    for path, name in {**names, str(NOTEBOOKS.parent): "..", str(Path.home()): "~"}.items():
        if len(Path(path).parts) > 1:
            text = text.replace(json.dumps(path)[1:-1], name)
    executed.write_text(text, encoding="utf-8")


def stilled(notebook):
    """Return the notebook without progress bars, and with the figure of each widget alone.

    A live view needs the kernel that is gone, and where it is drawn it hides the figure.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress_bar(output)]
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET, None)
    notebook.metadata.pop("widgets", None)
    return notebook


def describe_figures(soup):
    """Give each figure of a page of cells a text: the paragraph below it, else the one above."""
    for picture in soup.select(".jp-OutputArea-output img"):
        cell = picture.find_parent(class_="jp-Cell")
        below = cell.find_next_sibling()
        above = cell.find_previous_sibling(class_="jp-MarkdownCell")
        texts = below.select("p") if below and "jp-MarkdownCell" in below["class"] else []
        texts += above.select("p")[::-1] if above else []
        if texts:
            picture["alt"] = " ".join(texts[0].get_text().split())


def is_progress_bar(output):
    data = output.get("data", {})
    # Of known length, or one that counts alone.
    return WIDGET in data and bool(re.search(r"%\||\w \[\d\d:", data.get("text/plain", "")))


def read_test(run):
    """Return what was measured on the test patients of a run."""
    return json.loads((run / "run.json").read_text(encoding="utf-8"))["metrics"]["test"]


def summary(run, page):
    """Return the sentence that ends `make run`, read from the run."""
    test = read_test(run)
    auc = test["auc"]
    return (
        f"Test AUC {auc['value']:.2f} (95 % interval {auc['low']:.2f} to {auc['high']:.2f}), "
        f"{test['films']} films of {test['patients']} patients. "
        f"Read {os.path.relpath(page)}; the run is in {os.path.relpath(run)}."
    )


if __name__ == "__main__":
    main()
