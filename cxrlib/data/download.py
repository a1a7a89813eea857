"""Fetch the NIH sample: 1,860 real chest radiographs and their labels, every file checked."""

import hashlib
import os
import re
import shutil
import zipfile
from functools import partial
from pathlib import Path

import pooch
import requests
from tqdm.auto import tqdm

# A zip lists its members at its end, so a cut-off transfer shows, and any one file can be read
# without the others. GitHub makes the archive on request: its bytes may change, so trust rests on
# the manifest, and it has no Range requests, so a broken transfer starts again.
NIH_SAMPLE_URL = (
    "https://github.com/adleberg/medical-ai/archive/56de7f5f706e73159507a01d869f7e6f81b49afc.zip"
)
NIH_SAMPLE_MANIFEST = Path(__file__).with_name("nih-sample.manifest")
MANIFEST_LINE = re.compile(r"([0-9a-f]{40}) (\d+) (labels\.csv|images/\w[\w.-]*)", re.ASCII)


class DownloadError(OSError):
    """The sample could not be fetched whole; the message names the cause and what to do."""


def download_nih_sample(
    folder: str | Path = "medical/nih-sample",
    url: str = NIH_SAMPLE_URL,
    manifest: str | Path = NIH_SAMPLE_MANIFEST,
) -> Path:
    """Fetch the NIH sample into a study folder, or complete one that is there in part.

    The archive (about 248 MB) is fetched into ``folder/.download`` in up to four attempts. A file
    whose git hash is right takes its place, whole or not at all; nothing else of the archive is
    written. Files already there and right are left alone, files that differ are replaced, and
    where all are right nothing is fetched. After an error or an interruption the next call goes
    on with what is good. Only one call at a time may work on a folder.

    Parameters
    ----------
    folder : str or Path
        The study folder to fill with ``labels.csv`` and ``images/``.
    url : str
        A zip archive that holds the files below one top folder, as GitHub makes them.
    manifest : str or Path
        Names the files to have: see `read_manifest`.

    Returns
    -------
    Path
        ``folder``, now complete.

    Raises
    ------
    DownloadError
        No network, an HTTP error, an answer that is no archive, a transfer cut off four times, a
        file that is missing or not as the manifest says, a folder or disk that cannot be written.

    Notes
    -----
    The radiographs are from ChestX-ray14 of the NIH Clinical Center, which sets no restriction on
    their use and asks to be acknowledged, with a link to [1]_ and a citation of [2]_. The sample
    was gathered by github.com/adleberg/medical-ai.

    .. [1] https://nihcc.app.box.com/v/ChestXray-NIHCC
    .. [2] X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. M. Summers. ChestX-ray8: Hospital-scale
       Chest X-ray Database and Benchmarks on Weakly-Supervised Classification and Localization of
       Common Thorax Diseases. CVPR 2017, pp. 3462-3471.
    """
    folder = Path(folder)
    archive = folder / ".download" / "archive.zip"
    files = read_manifest(manifest)
    try:
        missing = {
            path: (sha1, size)
            for path, (sha1, size) in tqdm(files.items(), desc="Checking", unit="file")
            if not (folder / path).is_file() or git_hash((folder / path).read_bytes()) != sha1
        }
        if missing:
            _fetch(url, archive, expected_bytes=sum(size for _, size in files.values()))
            _extract(archive, missing, folder)
        shutil.rmtree(archive.parent, ignore_errors=True)
    except requests.RequestException as error:
        raise DownloadError(
            f"{url} could not be fetched: {error}. Check the network (behind a proxy, set "
            f"HTTPS_PROXY) and call again; an archive that you save as {archive} is used too."
        ) from error
    except OSError as error:
        raise DownloadError(
            f"{folder} could not be read or written: {error}. Make room on the disk (twice the "
            "size of the sample) or choose a folder that you may write to, and call again."
        ) from error
    return folder


def read_manifest(path: str | Path = NIH_SAMPLE_MANIFEST) -> dict[str, tuple[str, int]]:
    """Return git hash and size in bytes by path from lines ``HASH SIZE PATH``; ``#`` is a comment.

    Raises
    ------
    ValueError
        A line is not of this form, or its path is not ``labels.csv`` or ``images/NAME``.
    """
    files = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("#"):
            continue
        match = MANIFEST_LINE.fullmatch(line)
        if match is None:
            raise ValueError(
                f"{path}, line {number}: {line!r} is not 'HASH SIZE PATH' of labels.csv or of "
                "images/NAME. Restore the manifest from the repository."
            )
        files[match[3]] = (match[1], int(match[2]))
    return files


def git_hash(content: bytes) -> str:
    """Return git's blob hash in hexadecimal: SHA-1 of ``blob SIZE``, a zero byte, the content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _fetch(url: str, archive: Path, expected_bytes: int) -> None:
    """Fetch ``url`` unless ``archive`` is there; pooch retries, and moves it in place if whole."""
    for left_by_a_killed_call in archive.parent.glob("tmp*"):
        left_by_a_killed_call.unlink()
    name = archive.name
    cache = pooch.create(
        archive.parent, "", registry={name: None}, urls={name: url}, retry_if_failed=3
    )
    cache.fetch(name, downloader=partial(_download_zip, expected_bytes=expected_bytes))


def _download_zip(url: str, output_file: str, _pooch: object, expected_bytes: int) -> None:
    # pooch's own downloader shows no progress without a Content-Length, and takes any answer.
    with requests.get(url, stream=True, timeout=30) as response, open(output_file, "wb") as file:
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", expected_bytes))
        with tqdm(total=total, desc="Downloading", unit="B", unit_scale=True) as progress:
            for chunk in response.iter_content(chunk_size=1 << 16):
                progress.update(file.write(chunk))
    if not zipfile.is_zipfile(output_file):
        with open(output_file, "rb") as file:
            raise requests.RequestException(
                f"the answer is no zip archive, or one cut off; it begins with {file.read(60)!r}"
            )


def _extract(archive: Path, wanted: dict[str, tuple[str, int]], folder: Path) -> None:
    """Move every right file into ``folder``, then raise where some were not right."""
    try:
        zipped = zipfile.ZipFile(archive)
    except Exception as error:  # zipfile raises many kinds where an archive is damaged
        archive.unlink()
        raise DownloadError(f"{archive}: {error}. It was deleted; call again.") from error
    part = archive.with_name("part")
    problems = []
    (folder / "images").mkdir(exist_ok=True)
    with zipped:
        # Members are looked up by the manifest's paths: no path of the archive is ever used.
        members = {name.partition("/")[2]: name for name in zipped.namelist()}
        for path, (sha1, size) in tqdm(wanted.items(), desc="Unpacking", unit="file"):
            try:
                with zipped.open(members[path]) as member:
                    content = member.read(size + 1)  # one more byte shows a file that is too long
                found = git_hash(content) if len(content) == size else "another size"
            except KeyError:
                found = "no such file"
            except Exception as error:  # damaged, as above
                found = str(error)
            if found == sha1:
                part.write_bytes(content)
                os.replace(part, folder / path)
            else:
                problems.append(f"{path}: expected {size} bytes with hash {sha1}, found {found}")
    if problems:
        archive.unlink()
        raise DownloadError(
            f"{len(problems)} of {len(wanted)} files in the archive are not as the manifest says: "
            f"{'; '.join(problems[:3])}. The others are in {folder}. The archive was deleted; call "
            "again to fetch it anew."
        )
