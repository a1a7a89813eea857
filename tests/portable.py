"""Run the tests that touch numbers as other processors would: give settings, or none for all."""

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
}
VARIABLES = {name for setting in SETTINGS.values() for name in setting}
TESTS = [sys.executable, "-m", "pytest", "-q", "-m", "portable", "-n", "2", "--dist", "loadfile"]


def main(names: list[str]) -> None:
    """Print a line per setting; end with status 1 where a test failed."""
    if unknown := set(names) - SETTINGS.keys():
        sys.exit(f"setting '{min(unknown)}': give {', '.join(SETTINGS)}")
    plain = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    failed = False
    for name in names or SETTINGS:
        start = time.monotonic()
        environment = plain | SETTINGS[name]
        done = subprocess.run(TESTS, env=environment, capture_output=True, text=True)
        result = "FAILED" if done.returncode else "passed"
        summary = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
        print(f"{name:18}{result}  {time.monotonic() - start:.0f} s  {summary}", flush=True)
        if done.returncode:
            failed = True
            print(done.stdout, done.stderr, sep="\n", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main(sys.argv[1:])
