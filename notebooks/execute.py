"""Execute notebooks 01 to 06 in order, as `make run` does.

They go to runs/notebooks/ as ipynb and HTML. The first that fails ends it, and what it had executed
stays there. With --in-place the committed notebooks are replaced too, once all have succeeded.
"""

import argparse
import ast
import json
import os
import sys
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter
from traitlets.config import Config

NOTEBOOKS = Path(__file__).resolve().parent
RUNS = NOTEBOOKS.parent / "runs"
# Without it every kernel warns that it talks in plain text.
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})
WIDGET = "application/vnd.jupyter.widget-view+json"


def main():
    args = parse_arguments()
    # Kernels start in notebooks/, not where this was called.
    for name in ("CXR_DATA", "CXR_RUN", "CXR_NIH"):
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(os.environ[name])

    sources = sorted(NOTEBOOKS.glob("0[1-6]_*.ipynb"))
    known = {source: set(papermill.inspect_notebook(source)) for source in sources}
    parameters = chosen_parameters(args)
    if unknown := parameters.keys() - set().union(*known.values()):
        sys.exit(f"No notebook has a parameter named {', '.join(sorted(unknown))}.")

    args.out.mkdir(parents=True, exist_ok=True)
    for number, source in enumerate(sources, 1):
        print(f"[{number}/{len(sources)}] {source.name}", flush=True)
        executed = args.out / source.name
        own = {name: value for name, value in parameters.items() if name in known[source]}
        try:
            papermill.execute_notebook(source, executed, own, cwd=NOTEBOOKS, config=ENCRYPTED)
        except papermill.PapermillExecutionError as error:
            sys.exit(f"{error}\n{source.name} failed; {executed} holds what was executed.")
        page, _ = HTMLExporter().from_notebook_node(stilled(nbformat.read(executed, as_version=4)))
        executed.with_suffix(".html").write_text(page, encoding="utf-8")

    if args.in_place:
        for source in sources:
            replace(source, args.out / source.name)
    run = parameters.get("run") or os.environ.get("CXR_RUN") or RUNS / "cardiomegaly"
    print(summary(Path(run), args.out / "03_evaluate.html"))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, help="folder with labels.csv and images/")
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


def chosen_parameters(args):
    """Return what papermill injects: absolute folders, and for each finding a run of its own."""
    parameters = {name: literal(value) for name, value in args.others}
    if args.finding:
        parameters["finding"] = args.finding
        if "CXR_RUN" not in os.environ:
            parameters["run"] = str(RUNS / args.finding.lower().replace(" ", "_"))
    for name in ("study", "run"):
        if folder := getattr(args, name):
            parameters[name] = str(folder.resolve())
    return parameters


def literal(text):
    """Return the Python value that `text` writes (3e-4, None, True), else the text itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def replace(source, executed):
    """Put `executed` in the place of `source`, less what differs between any two executions."""
    notebook = stilled(nbformat.read(executed, as_version=4))
    notebook.metadata.pop("papermill", None)
    notebook.metadata.language_info = {"name": "python"}  # less the exact version of Python
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    whole = source.with_suffix(".tmp")
    nbformat.write(notebook, whole)
    os.replace(whole, source)


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


def is_progress_bar(output):
    data = output.get("data", {})
    return WIDGET in data and "%|" in data.get("text/plain", "")


def summary(run, page):
    """Return the sentence that ends `make run`, read from the run."""
    test = json.loads((run / "run.json").read_text(encoding="utf-8"))["metrics"]["test"]
    auc = test["auc"]
    return (
        f"Test AUC {auc['value']:.2f} (95 % interval {auc['low']:.2f} to {auc['high']:.2f}), "
        f"{test['films']} films of {test['patients']} patients. "
        f"Read {os.path.relpath(page)}; the run is in {os.path.relpath(run)}."
    )


if __name__ == "__main__":
    main()
