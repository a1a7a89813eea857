"""A study is a folder with `labels.csv` and `images/`: read it, check it, split it by patient."""

import difflib
import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrlib.data.filing import match_files, read_headers, take_views
from cxrlib.data.images import film_digest
from cxrlib.data.labels import NO_FINDING, ProblemLog, check_boxes, check_labels, spelled_as
from cxrlib.data.patients import HASH_RULE, assign_patients, split_films
from cxrlib.data.publishers import OWN
from cxrlib.data.rows import add_entries, gather_films, leave_out_copies, read_fields, standard_rows
from cxrlib.data.source import find_labels, read_source
from cxrlib.data.table import StudyError


@dataclass(frozen=True)
class Study:
    """A study as read by `read_study`.

    Attributes
    ----------
    folder : Path
    findings : DataFrame, one row per finding
        The usable rows of `labels.csv`, with `patient`. Boxes are in pixels of the image file, NaN
        where there is none.
    films : DataFrame, one row per image
        filename, path, file (as seen from the study's folder), patient. view ('PA', 'AP',
        'lateral', '' if unknown), sex ('F', 'M', '' if unknown), age (years, NaN if unknown).
        original_width and original_height (pixels of the detector, NaN if unknown), labels and
        doubt (findings that it has or may have, tuples of str). width, height (pixels of the image
        file), split ('train' or 'test').
    problems : DataFrame, one row per problem
        row (line of `labels.csv`, 1 for what was assumed of the whole), filename, problem, fix,
        outcome.
    publisher, patients_from, split_rule : str
        Whose table it is, where the patients come from, and who decides the split.

    >>> import cxrlib as cxr
    >>> cxr.read_study("medical").films.loc[0, ["patient", "view", "split"]].tolist()
    ['00060001', 'PA', 'train']
    """

    folder: Path
    findings: pd.DataFrame
    films: pd.DataFrame
    problems: pd.DataFrame
    publisher: str = OWN.name
    patients_from: str = "a column"
    split_rule: str = HASH_RULE

    def name_of(self, finding: str) -> str:
        """Return a finding as this study spells it; a StudyError says that no film has it."""
        known = self.findings["label"].value_counts().drop(NO_FINDING, errors="ignore")
        if name := spelled_as(finding, known.index):
            return name
        near = difflib.get_close_matches(finding, known.index, n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        listed = ", ".join(f"{label} ({count})" for label, count in known.items()) or "no finding"
        raise StudyError(
            f"finding '{finding}': {self.folder} has no film with it. {hint}It has {listed}."
        )


def read_study(folder: str | Path, decode: bool = False) -> Study:
    """Read and check a study: `labels.csv` and `images/`, or what a publisher gives.

    docs/studies.md says which tables and folders are known. Rows that cannot be trusted are left
    out and listed in `problems`, with a warning, and so is what was assumed. Where NIH's
    `Data_Entry_2017.csv` (or `..._v2020.csv`) lies beside `labels.csv`, age and sex are taken from
    it by image name.

    Parameters
    ----------
    folder : the study's folder
    decode : decode every image fully, so that files cut short are found too; else only headers
        are read.

    Raises
    ------
    StudyError
        Nothing that is known, required columns missing, or not one usable row. Entries of NIH that
        are not such a table, or have none of the study's images. An own split that a patient
        crosses.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> study = cxr.read_study("medical")
    >>> len(study.films), study.patients_from
    (245, 'NIH (245 films)')
    """
    folder = Path(folder)
    labels = find_labels(folder)
    publisher, table, said = read_source(folder, labels)
    own, where = publisher == OWN.name, labels or folder
    root = folder / "images" if labels and (folder / "images").is_dir() else folder
    rows, columns, more = standard_rows(table, labels if own else None)
    log = ProblemLog(rows, said + more)
    rows = match_files(rows, root, log)
    twice = rows.index[rows.duplicated(rows.columns.drop("row"))]
    log.add(twice, "same row as one above", "delete it")
    rows = read_fields(add_entries(rows, folder) if own else rows, log)
    headers = read_headers(rows, root, decode, log)
    rows = take_views(rows, headers, log)
    rows = check_labels(rows, log, where, own)
    rows, source = assign_patients(rows, root, columns.get("patient"), log)
    rows = check_boxes(rows, headers, log)
    rows = leave_out_copies(rows, headers, root, log)
    kept = log.kept(rows)
    if kept.empty:
        first = log.table().query("outcome == 'row left out'").iloc[0].to_dict()
        raise StudyError(f"{where}: not one row can be used. The first problem: {first}")
    if log.dropped:
        out = f"{len(log.dropped)} of {len(rows)} rows are left out"
        warnings.warn(f"{where}: {out}; `study.problems` says why", stacklevel=2)
    films = gather_films(kept, headers, root, folder)
    if lateral := (films["view"] == "lateral").sum():
        log.note(f"{lateral} lateral films are left out of every question")
    films["split"], rule = split_films(films, folder, log)
    findings = kept[kept["label"] != ""].drop(columns=["row", "doubt", "split"])
    findings = findings.reset_index(drop=True)
    return Study(folder, findings, films, log.table(), publisher, source, rule)


def choose_films(study: Study, finding: str, against: str = NO_FINDING) -> pd.DataFrame:
    """Return the films of one question: those with the finding against those without.

    Lateral films are left out, with a warning, and films for which the finding is in doubt.

    Parameters
    ----------
    finding : in any spelling that `Study.name_of` knows
    against : 'No Finding' leaves films with other findings only out of the question. 'others' is
        every film without the finding, as published results on NIH's films have it.

    Returns
    -------
    DataFrame, one row per image
        As `study.films`, with `target`: 1 where the finding is among the labels, else 0.

    Raises
    ------
    StudyError
        The finding is unknown to the study, or one of the two sides has no film.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> films = cxr.choose_films(cxr.read_study("medical"), "cardiomegaly")
    >>> films["target"].value_counts().to_dict()
    {0: 144, 1: 92}
    """
    name = study.name_of(finding)
    if against != "others" and spelled_as(against, [NO_FINDING]) is None:
        raise StudyError(f"against '{against}': give '{NO_FINDING}' or 'others'")
    films = study.films
    lateral = films["view"] == "lateral"
    positive = films["labels"].map(lambda labels: name in labels)
    doubted = ~positive & films["doubt"].map(lambda doubt: bool(spelled_as(name, doubt)))
    negative, which = ~positive & ~doubted, "without it"
    if against != "others":
        negative &= films["labels"].map(lambda labels: NO_FINDING in labels)
        which = f"labelled '{NO_FINDING}'"
    if not negative.any():
        out = (
            f" {doubted.sum()} films are left out, since they may have it." if any(doubted) else ""
        )
        raise StudyError(
            f"{study.folder} has no film {which} to hold against '{name}'.{out} "
            f"Label films without a finding '{NO_FINDING}', or ask against='others'."
        )
    for side, missing in ((positive, f"with '{name}'"), (negative, "to hold against it")):
        if lateral[side].all():
            raise StudyError(f"{study.folder} has no frontal film {missing}: all are lateral.")
    asked = positive | negative
    if out := (lateral & asked).sum():
        text = f"{study.folder}: {out} lateral films are left out of the question"
        warnings.warn(text, stacklevel=2)
    chosen = films[asked & ~lateral]
    return chosen.assign(target=positive[chosen.index].astype(int)).reset_index(drop=True)


def count_split(films: pd.DataFrame) -> pd.DataFrame:
    """Return films, patients, positives and the share of AP by split, one row per split.

    The share is among films of known view, 'unknown' where there is none; the films without a view
    are counted where there are any.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> films = cxr.choose_films(cxr.read_study("medical"), "Cardiomegaly")
    >>> cxr.count_split(films)["patients"].to_dict()
    {'train': 95, 'test': 32}
    """
    view = films["view"]
    counts = (
        films.groupby("split")
        .agg(
            films=("filename", "size"),
            patients=("patient", "nunique"),
            positives=("target", "sum"),
            prevalence=("target", "mean"),
        )
        .reindex(["train", "test"], fill_value=0)
    )
    ap = (view == "AP").where(view != "").astype(float)
    counts["AP share"] = ap.groupby(films["split"]).mean()
    counts = counts.round(3)
    if counts["AP share"].isna().any():
        counts["AP share"] = counts["AP share"].astype(object).fillna("unknown")
    if (view == "").any():
        unknown = (view == "").groupby(films["split"]).sum()
        counts["view unknown"] = unknown.reindex(counts.index, fill_value=0)
    return counts


def digest_films(films: pd.DataFrame) -> str:
    """Return the SHA-256 of names, targets and contents of films, whatever their order."""
    lines = sorted(f"{f.filename},{f.target},{film_digest(f.path)}" for f in films.itertuples())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
