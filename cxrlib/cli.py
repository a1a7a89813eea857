"""The command `cxr`: score films, download the NIH sample, simulate a study."""

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    """Run one command; what goes wrong is said in a sentence, with exit status 1."""
    parser = argparse.ArgumentParser(
        prog="cxr", description="Chest radiographs. For teaching and research, no medical device."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    score = commands.add_parser("score", help="score films with a run")
    score.add_argument("run", metavar="RUN", help="folder of a run, as notebook 02 writes it")
    score.add_argument("paths", metavar="PATH", nargs="+", help="image files and folders")
    score.add_argument("--out", metavar="FILE", required=True, help="CSV to write")
    score.add_argument("--fast", action="store_true", help="with the run's engine of 8 bits")
    score.set_defaults(command=_score)

    download = commands.add_parser("download", help="download a public study")
    download.add_argument("study", choices=["nih-sample"])
    download.add_argument("--out", metavar="DIR", default="medical/nih-sample", type=Path)
    download.set_defaults(command=_download)

    phantom = commands.add_parser("phantom", help="simulate a study")
    phantom.add_argument("--patients", metavar="N", type=int, default=130)
    phantom.add_argument("--seed", metavar="S", type=int, default=0)
    phantom.add_argument("--out", metavar="DIR", required=True, type=Path)
    phantom.set_defaults(command=_phantom)

    options = parser.parse_args(arguments)
    try:
        print(options.command(options))
    except (OSError, ValueError) as error:
        sys.exit(f"cxr: {error}")
    except KeyboardInterrupt:
        sys.exit("cxr: interrupted")


# Each command imports what it needs: TensorFlow takes seconds, and only scoring wants it.
def _score(options) -> str:
    from cxrlib.run import load_run
    from cxrlib.score import score_films

    scores = score_films(load_run(options.run, options.fast), options.paths, options.out)
    counts = scores["status"].value_counts()
    return f"{options.out}: " + ", ".join(f"{n} {status}" for status, n in counts.items())


def _download(options) -> str:
    from cxrlib.download import download_nih_sample

    return f"{download_nih_sample(options.out)} is complete and checked"


def _phantom(options) -> str:
    from cxrlib.phantom import make_study

    labels = make_study(options.out, options.patients, options.seed)
    return f"{options.out}: {labels['filename'].nunique()} simulated films"
