"""Fetch the NIH sample: 1,860 real chest radiographs and their labels, every file checked."""

import hashlib
import multiprocessing
import os
import re
import shutil
import threading
import zipfile
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pooch
import requests
from tqdm.auto import tqdm

from cxrlib.data.files import place_to_write

# One archive, since GitHub lets nobody fetch thousands of single files. It makes the archive on
# request: its bytes may change, so trust rests on the manifest, and a broken transfer starts again.
NIH_SAMPLE_URL = (
    "https://github.com/adleberg/medical-ai/archive/56de7f5f706e73159507a01d869f7e6f81b49afc.zip"
)
NIH_SAMPLE_MANIFEST = Path(__file__).with_name("nih-sample.manifest")
HOURS = 2  # for one attempt; 35 kB a second are enough
MANIFEST_LINE = re.compile(r"([0-9a-f]{40}) (\d+) (labels\.csv|images/\w[\w.-]*)", re.ASCII)


class DownloadError(OSError):
    """The sample could not be fetched whole; the message names the cause and what to do."""


def download_nih_sample(
    folder: str | Path = "medical/nih-sample",
    url: str = NIH_SAMPLE_URL,
    manifest: str | Path = NIH_SAMPLE_MANIFEST,
) -> Path:
    """Fetch the NIH sample into a study folder, or complete one that is there in part.

    The archive (about 248 MB) is fetched into `folder/.download` in up to four attempts. Each file
    whose hash is right takes its place, whole or not at all, `labels.csv` last. Right files are
    left alone, others replaced. After an error or an interruption the next call goes on with what
    is good. Only one call at a time may work on a folder.

    Parameters
    ----------
    folder : the study's folder
    url : a zip archive that holds the files below one top folder, as GitHub makes them
    manifest : names the files to have, see `read_manifest`

    Returns
    -------
    `folder` as a Path, now complete

    Raises
    ------
    DownloadError
        No network, an HTTP error, an answer that is not an archive, or a transfer cut off four
        times. A file that is missing or not as the manifest says, or a folder that cannot be
        written.

    Notes
    -----
    The radiographs are from ChestX-ray14 (X. Wang et al., CVPR 2017, pp. 3462-3471) of the NIH
    Clinical Center, https://nihcc.app.box.com/v/ChestXray-NIHCC, which sets no restriction on their
    use and asks to be acknowledged. github.com/adleberg/medical-ai gathered the sample.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> study = cxr.read_study(cxr.download_nih_sample())  # doctest: +SKIP
    """
    folder, files = Path(folder), read_manifest(manifest)
    place_to_write(folder, "folder")
    archive = folder / ".download" / "archive.zip"
    try:
        missing = {
            path: files[path]
            for path in tqdm(sorted(files, key="labels.csv".__eq__), desc="Checking", unit="file")
            if not (folder / path).is_file()
            or git_hash((folder / path).read_bytes()) != files[path][0]
        }
        if missing:
            _fetch(url, archive, sum(size for _, size in files.values()))
            _extract(archive, missing, folder)
        shutil.rmtree(archive.parent, ignore_errors=True)
    except (requests.RequestException, ValueError) as error:  # ValueError: a redirection's address
        raise DownloadError(
            f"{url} could not be fetched: {error}. Check the network (behind a proxy, set "
            f"HTTPS_PROXY) and call again; an archive that you save as {archive} is used too."
        ) from error
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{folder} could not be read or written: {error}. Make room on the disk (twice the "
            "size of the sample) or choose a folder that you may write to, and call again."
        ) from error
    return folder


def read_manifest(path: str | Path = NIH_SAMPLE_MANIFEST) -> dict[str, tuple[str, int]]:
    """Return git hash and size in bytes by path; a ValueError names a line of another form."""
    files = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if match := MANIFEST_LINE.fullmatch(line):
            files[match[3]] = (match[1], int(match[2]))
        elif not line.startswith("#"):
            raise ValueError(
                f"{path}, line {number}: {line!r} is not 'HASH SIZE PATH' of labels.csv or of "
                "images/NAME. Restore the manifest from the repository."
            )
    return files


def git_hash(content: bytes) -> str:
    """Return git's blob hash in hexadecimal: SHA-1 of `blob SIZE`, a zero byte, the content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _fetch(url: str, archive: Path, expected_bytes: int) -> None:
    """Fetch `url` unless `archive` is there; pooch retries, and moves it in place if whole."""

    def receive(url, output_file, stop):
        # pooch's own downloader shows no progress without a Content-Length, and takes any answer.
        bar = {"desc": "Downloading", "unit": "B", "unit_scale": True}
        with requests.get(url, stream=True, timeout=30) as answer, open(output_file, "wb") as file:
            answer.raise_for_status()
            with tqdm(total=expected_bytes, **bar) as progress:
                for chunk in answer.iter_content(2**16):
                    if stop.is_set():
                        return
                    progress.update(file.write(chunk))
                    if file.tell() > 2 * expected_bytes + 2**20:
                        raise DownloadError(f"{url} sends far more than the sample: is it right?")
        if not zipfile.is_zipfile(output_file):
            start = Path(output_file).read_bytes()[:60]
            raise requests.RequestException(
                f"the answer is not a zip archive, or is cut off; it begins with {start!r}"
            )

    def download(url, output_file, _):
        stop = threading.Event()
        try:  # in a thread of its own, which a trickling answer may keep for ever
            with ThreadPool(1) as readers:
                readers.apply_async(receive, (url, output_file, stop)).get(3600 * HOURS)
        except multiprocessing.TimeoutError:
            raise DownloadError(f"{url} is too slow: not done in {HOURS} hours") from None
        finally:  # after an interruption too: nothing goes on behind the notebook's back
            stop.set()

    for left_by_a_killed_call in archive.parent.glob("tmp*"):
        left_by_a_killed_call.unlink()
    files = {"registry": {archive.name: None}, "urls": {archive.name: url}}
    cache = pooch.create(archive.parent, "", **files, retry_if_failed=3)
    cache.fetch(archive.name, downloader=download)


def _extract(archive: Path, wanted: dict[str, tuple[str, int]], folder: Path) -> None:
    """Move every right file into `folder`, then raise where some were not right."""
    part, problems = archive.with_name("part"), []
    (folder / "images").mkdir(exist_ok=True)
    try:
        zipped = zipfile.ZipFile(archive)
    except Exception as error:  # zipfile raises many kinds where an archive is damaged
        archive.unlink()
        raise DownloadError(f"{archive}: {error}. It was deleted; call again.") from error
    with zipped:
        # Members are looked up by the manifest's paths: no path of the archive is ever used.
        members = {name.partition("/")[2]: name for name in zipped.namelist()}
        for path, (sha1, size) in tqdm(wanted.items(), desc="Unpacking", unit="file"):
            try:
                with zipped.open(members[path]) as member:
                    content = member.read(size + 1)  # one more byte shows one that is too long
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
