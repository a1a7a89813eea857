"""The command `cxr`: use a run, examine the installation, get a study."""

import argparse
import sys
import time
import warnings
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    """Run one command; what goes wrong is said in a sentence, with exit status 1."""
    parser = argparse.ArgumentParser(
        prog="cxr",
        description="Chest radiographs. For teaching and research; not a medical device.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    score = commands.add_parser("score", help="give each radiograph a score, in a file")
    score.add_argument("run", metavar="RUN", help="folder of a run, as notebook 02 writes it")
    score.add_argument("paths", metavar="PATH", nargs="+", help="image files and folders")
    score.add_argument("--out", metavar="FILE", required=True, help=".csv or .parquet to write")
    score.add_argument("--no-check", action="store_true", help="score every image that can be read")
    score.add_argument("--fast", action="store_true", help="use the run's 8-bit engine")
    where = score.add_mutually_exclusive_group()
    where.add_argument("--workers", metavar="N", type=int, help="share the work among N processes")
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="share it in a dask.distributed cluster"
    )
    score.set_defaults(command=_score)

    export = commands.add_parser("export", help="write a run's classifier for other software")
    export.add_argument("run", metavar="RUN", help="folder of a run")
    export.add_argument("--format", choices=["keras", "onnx", "litert", "openvino"], required=True)
    export.add_argument("--out", metavar="DIR", required=True, help="new folder to write")
    export.set_defaults(command=_export)

    engine = commands.add_parser("engine", help="add the 8-bit engine to a run, for --fast")
    engine.add_argument("run", metavar="RUN", help="folder of a run")
    engine.add_argument("study", metavar="STUDY", help="folder of the study it was trained on")
    engine.set_defaults(command=_engine)

    doctor = commands.add_parser("doctor", help="check the installation, step by step")
    doctor.set_defaults(command=_doctor)

    download = commands.add_parser("download", help="download a public study")
    download.add_argument("study", choices=["nih-sample"])
    download.add_argument("--out", metavar="DIR", default="medical/nih-sample", type=Path)
    download.set_defaults(command=_download)

    phantom = commands.add_parser("phantom", help="write a study of simulated radiographs")
    phantom.add_argument("--patients", metavar="N", type=int, default=130, help="default: 130")
    phantom.add_argument("--seed", metavar="S", type=int, default=0, help="of all that is random")
    phantom.add_argument("--out", metavar="DIR", required=True, type=Path)
    phantom.set_defaults(command=_phantom)

    study = commands.add_parser("study", help="show how a folder is understood as a study")
    study.add_argument(
        "folder", metavar="FOLDER", type=Path, help="with labels.csv or a publisher's tables"
    )
    study.add_argument(
        "--write", metavar="FILE", type=Path, help="also write it as a new labels.csv"
    )
    study.set_defaults(command=_study)

    options = parser.parse_args(arguments)
    try:
        print(options.command(options))
    except (OSError, ValueError) as error:
        sys.exit(f"cxr: {error}")
    except KeyboardInterrupt:
        sys.exit("cxr: interrupted")


# Each command imports what it needs: TensorFlow takes seconds, and only scoring wants it.
def _score(options) -> str:
    from cxrlib.model.run import load_run
    from cxrlib.scoring.write import write_scores

    how = {"scheduler": options.scheduler, "workers": options.workers}
    how["check"] = not options.no_check
    load = load_run
    if options.fast:
        from cxrlib.deploy.engine import load_fast as load
    run = load(options.run)
    counts = write_scores(run, options.paths, options.out, **how)
    return f"{options.out}: " + ", ".join(f"{n} {status}" for status, n in counts.most_common())


def _export(options) -> str:
    from cxrlib.deploy.export import export_run
    from cxrlib.model.run import load_run

    card = export_run(load_run(options.run), options.format, options.out)
    check = card["check"]
    return (
        f"{options.out}: {', '.join(card['files'])} and card.json; on {check['films']} films "
        f"{check['runtime']} differs from the run by at most {check['largest_difference']:.1g}"
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


def _study(options) -> str:
    from cxrlib.data.describe import describe_study, write_labels
    from cxrlib.data.study import read_study

    with warnings.catch_warnings(action="ignore"):  # the problems say it all
        study = read_study(options.folder)
    told = describe_study(study)
    if options.write:
        told += f"\nwritten: {options.write}, {write_labels(study, options.write)}"
    return told


def _phantom(options) -> str:
    from cxrlib.phantom.study import make_study

    labels = make_study(options.out, options.patients, options.seed)
    return f"{options.out}: {labels['filename'].nunique()} simulated films"
