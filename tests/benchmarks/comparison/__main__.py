"""Which image size, layer, grid, network and precision pays: on training patients alone.

    CXR_DATA=folder python tests/benchmarks/comparison --cache FOLDER --out docs/comparison.md

Each way makes features of the study's training films. Each film is scored by a head that never saw
its patient, in the nested folds of `fit_head`, once per seed. What is compared is the AUC, averaged
over seeds, in the same resamples of patients. Films of the split 'test' are dropped where they are
read. Features and scores are kept in --cache, so that a call that was interrupted goes on; delete
it when the library changes. The page and its figure are written anew from what is kept.

The rule was fixed before these numbers were known. For each way, the mean AUC over the findings
is compared with that of the best way. Of the ways that lie within one standard error of it (of the
paired difference, over resamples of patients), the default is the one whose features cost the least
processor time; among equals, the one with the fewest numbers. Only ways of the plain installation
take part: 8 bits need the extra `fast`, and the common thorax is no part of the library.
"""

import argparse
import os
from pathlib import Path

from measure import Study, is_kept, score
from page import render
from ways import WAYS


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="the page; its figure lies beside it"
    )
    parser.add_argument("--kept", action="store_true", help="measure nothing, show what is kept")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    study, ways = Study(os.environ["CXR_DATA"], args.cache), WAYS
    if args.kept:
        ways = [way for way in WAYS if is_kept(study, way)]
    score(study, ways)
    args.out.write_text(render(study, ways, args.out))


if __name__ == "__main__":
    main()
