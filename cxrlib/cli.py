"""The command `cxr`: use a run, examine the installation, get a study."""

import argparse
import os
import sys
import time
import warnings
from importlib.metadata import files, version
from itertools import islice
from pathlib import Path

SHOWN = 100  # radiographs scored without a file
RUN = "folder of a run, or 'bundled' for the one that comes with cxrlib"


def main(arguments: list[str] | None = None) -> None:
    """Run one command; what goes wrong is said in a sentence, with exit status 1."""
    # What is closed, as cron may have it, is None, and the next file opened would take its place.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
    try:
        options = build_parser().parse_args(arguments)
        told = options.command(options).split("\n")
        print("\n".join(map(_printable, told)), flush=True)
    except BrokenPipeError:  # whoever read this has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError) as error:
        named = getattr(error, "strerror", None) and error.filename
        sys.exit(f"cxr: {error.filename}: {error.strerror}" if named else f"cxr: {error}")
    except KeyboardInterrupt:
        sys.exit("cxr: interrupted")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cxr",
        description="Chest radiographs. For teaching and research; not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"cxr {version('cxrlib')}")
    parser.set_defaults(command=lambda _: parser.format_help().rstrip())
    commands = parser.add_subparsers(metavar="COMMAND")

    def add(name: str, command, text: str):
        added = commands.add_parser(name, help=text, description=f"{text.capitalize()}.")
        added.set_defaults(command=command)
        return added

    score = add("score", _score, "give each radiograph a score")
    option = score.add_argument
    option("run", metavar="RUN", type=_find_run, help=RUN)
    option("paths", metavar="PATH", nargs="+", help="image files and folders")
    option("--out", metavar="FILE", help=f".csv or .parquet (default: show up to {SHOWN} scores)")
    option("--no-check", action="store_true", help="score any image (default: chest radiographs)")
    option("--fast", action="store_true", help="use the run's 8-bit engine (default: its model)")
    option = score.add_mutually_exclusive_group().add_argument
    option("--workers", metavar="N", type=int, help="processes to work at once (default: this one)")
    option("--scheduler", metavar="ADDRESS", help="a dask scheduler that you trust (default: none)")

    option = add("export", _export, "write a run's classifier for other software").add_argument
    option("run", metavar="RUN", type=_find_run, help=RUN)
    formats = ["keras", "onnx", "litert", "openvino"]
    option("--format", choices=formats, required=True, help="format of the model (required)")
    option("--out", metavar="DIR", required=True, help="new folder to write (required)")

    option = add("engine", _engine, "add the 8-bit engine to a run, for --fast").add_argument
    option("run", metavar="RUN", help="folder of a run")
    option("study", metavar="STUDY", help="folder of the study it was trained on")

    add("doctor", _doctor, "check the installation, step by step")

    option = add("download", _download, "download a public study").add_argument
    option("study", choices=["nih-sample"], help="1,860 real radiographs (248 MB)")
    place = Path("medical/nih-sample")
    option("--out", metavar="DIR", default=place, type=Path, help="folder (default: %(default)s)")

    option = add("audit", _audit, "audit the predictions of any model").add_argument
    option("table", metavar="TABLE", help="CSV with image, patient, target and probability")
    option("--threshold", metavar="T", type=float, help="positive from T on (default: Youden's)")
    report = add("report", _audit, "audit a run on its test patients").add_argument
    report("run", metavar="RUN", type=_find_run, help=RUN)
    for either in (option, report):
        either("--study", metavar="FOLDER", help="study to search for copies (default: none)")
        either("--out", metavar="FILE", required=True, help="HTML file to write (required)")

    option = add("phantom", _phantom, "write a study of simulated radiographs").add_argument
    option("--patients", metavar="N", type=int, default=130, help="how many (default: 130)")
    option("--seed", metavar="S", type=int, default=0, help="seed of all random draws (default: 0)")
    option("--site", default="A", help="simulated hospital, A or B (default: A)")
    option("--out", metavar="DIR", required=True, type=Path, help="folder to write (required)")

    option = add("study", _study, "show how a folder is understood as a study").add_argument
    option("folder", metavar="FOLDER", type=Path, help="with labels.csv or a publisher's tables")
    option("--write", metavar="FILE", type=Path, help="new labels.csv to write (default: none)")
    return parser


def _find_run(text: str) -> str:
    """Return the folder of a run; that of 'bundled' in a clone, or where it was installed."""
    if text != "bundled":
        return text
    clone = Path(__file__).parents[1] / "medical" / "models" / "cardiomegaly" / "run.json"
    installed = (file.locate() for file in files("cxrlib") or () if file.name == "run.json")
    for facts in map(Path, (clone, *installed)):
        if facts.exists():
            return str(facts.resolve().parent)
    raise argparse.ArgumentTypeError("no run was installed with cxrlib: give a run's folder")


# Each command imports what it needs: TensorFlow takes seconds, and only scoring wants it.
def _score(options) -> str:
    from cxrlib.data.files import walk_films

    films, check = options.paths, not options.no_check
    how = {"scheduler": options.scheduler, "workers": options.workers}
    if options.out is None:
        films = list(islice(walk_films(films), SHOWN + 1))
        if len(films) > SHOWN or how != dict.fromkeys(how):
            text = f"more than {SHOWN} radiographs, or several processes: give --out FILE"
            raise ValueError(text)
    if options.fast:
        from cxrlib.deploy.engine import load_fast as load
    else:
        from cxrlib.model.run import load_run as load
    run = load(options.run)
    if run.caution:
        print(f"cxr: {run.caution}", file=sys.stderr)
    if options.out is None:
        from cxrlib.model.predict import score_films

        scores = score_films(run, films, check)
        return scores.to_string(index=False, na_rep="", formatters={"path": _printable})
    from cxrlib.scoring.write import write_scores

    counts = write_scores(run, films, options.out, check, **how)
    return f"{options.out}: " + ", ".join(f"{n} {status}" for status, n in counts.most_common())


def _printable(name: str) -> str:
    """Return a name without what moves a terminal's cursor."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _export(options) -> str:
    from cxrlib.deploy.export import export_run
    from cxrlib.model.run import load_run

    card = export_run(load_run(options.run), options.format, options.out)
    check = card["check"]
    return (
        f"{options.out}: {', '.join(card['files'])} and card.json; on {check['films']} "
        f"radiographs {check['runtime']} differs from the run by at most "
        f"{check['largest_difference']:.1g}"
    )


def _engine(options) -> str:
    from cxrlib.data.study import read_study
    from cxrlib.deploy.engine import add_engine
    from cxrlib.model.card import describe_engine
    from cxrlib.model.run import load_run

    run = add_engine(load_run(options.run), read_study(options.study))
    return f"{options.run}: {describe_engine(run.facts['engine'])}"


def _doctor(options) -> str:
    start = time.monotonic()
    try:
        from cxrlib.deploy.doctor import describe_machine, examine
    except ImportError as error:
        raise ValueError(f"a package cannot be imported: {error}. Install it again.") from error

    for name, value in describe_machine().items():
        print(f"{name:14}{value}")
    steps = examine()
    for row in steps.itertuples():
        print(f"{row.step:14}{'ok     ' if row.same else 'DIFFERS'}  {row.found}")
    seconds = f"{time.monotonic() - start:.0f} seconds"
    if not row.same:
        raise ValueError(f"step '{row.step}' differs ({seconds}). {row.advice}")
    return f"all {len(steps)} steps are as stored ({seconds})"


def _download(options) -> str:
    from cxrlib.data.download import download_nih_sample

    return f"{download_nih_sample(options.out)} is complete and checked"


def _read_quietly(folder):
    from cxrlib.data.study import read_study

    with warnings.catch_warnings(action="ignore"):  # the problems say it all
        return read_study(folder)


def _study(options) -> str:
    from cxrlib.data.describe import describe_study, write_labels

    study = _read_quietly(options.folder)
    told = describe_study(study)
    if options.write:
        told += f"\nwritten: {options.write}, {write_labels(study, options.write)}"
    return told


def _audit(options) -> str:
    from cxrlib.audit.report import report_run, write_report

    study = _read_quietly(options.study) if options.study else None
    if "run" in options:
        verdicts = report_run(options.run, options.out, study)
    else:
        verdicts = write_report(options.table, options.out, study, options.threshold)
    rows = [f"{row.verdict:30}  {row.claim}\n" for row in verdicts.itertuples()]
    return f"{''.join(rows)}written: {options.out}"


def _phantom(options) -> str:
    from cxrlib.phantom.study import make_study

    labels = make_study(options.out, options.patients, options.seed, site=options.site)
    return f"{options.out}: {labels['filename'].nunique()} simulated radiographs"
