"""Run the tests that touch numbers as other processors would: give settings, or none for all.

With --whole it runs every test, and then the notebooks as `make run` does: half an hour a setting.
"""

import argparse
import os
import subprocess
import sys
import time

from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

SETTINGS = {
    "as-is": {},
    "onednn-sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "no-onednn": {"TF_ENABLE_ONEDNN_OPTS": "0"},
    "one-thread": {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"},
    "numpy-baseline": {
        "NPY_DISABLE_CPU_FEATURES": " ".join(x for x in __cpu_dispatch__ if __cpu_features__[x])
    },
    "openblas-haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "openblas-threads": {"OPENBLAS_NUM_THREADS": "2"},  # tests have one, see conftest.py
}
VARIABLES = {name for setting in SETTINGS.values() for name in setting}
ALL = [sys.executable, *"-m pytest -q -n 2 --dist loadfile --no-loadscope-reorder".split()]
SERIES = [sys.executable, "notebooks/execute.py"]


def main() -> None:
    """Print a line per setting and command; end with status 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help=f"of {', '.join(SETTINGS)}; default: all")
    parser.add_argument("--whole", action="store_true", help="every test, and the notebooks")
    options = parser.parse_args()
    if unknown := set(options.settings) - SETTINGS.keys():
        sys.exit(f"setting '{min(unknown)}': give {', '.join(SETTINGS)}")
    plain = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    failed = False
    for name in options.settings or SETTINGS:
        for command in [ALL, SERIES] if options.whole else [[*ALL, "-m", "portable"]]:
            start = time.monotonic()
            environment = plain | SETTINGS[name]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            result = "FAILED" if done.returncode else "passed"
            summary = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
            print(f"{name:18}{result}  {time.monotonic() - start:.0f} s  {summary}", flush=True)
            if done.returncode:
                failed = True
                print(done.stdout, done.stderr, sep="\n", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
