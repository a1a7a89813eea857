"""The folder of a simulated study: written by one process at a time, each file whole or not."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread

from filelock import FileLock, Timeout

EARLY = re.compile(r"lock|phantom\.json\.\d+\.part")  # all that a kill may leave at first


@contextmanager
def claim_folder(out: Path, wanted: dict) -> Iterator[None]:
    """Keep a folder to this process that is new, empty, or says `wanted` in `phantom.json`.

    Raises
    ------
    ValueError
        It holds another study.
    FileExistsError
        It holds something else, or another process writes it.
    """
    record, found = out / "phantom.json", {}
    if record.is_file():
        with suppress(ValueError, TypeError, RecursionError):
            found = dict(json.loads(record.read_text()))
        for key, value in wanted.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{record} says {key} {found.get(key)!r}, not {value!r}: give another folder"
                )
    elif out.exists() and not all(EARLY.fullmatch(path.name) for path in out.iterdir()):
        raise FileExistsError(f"{out} holds no simulated study: give an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / "lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise FileExistsError(f"another process writes {out}: wait, or give a new folder") from None
    try:
        for part in out.rglob("*.*.part"):  # of a process that was killed
            part.unlink()
        write_whole(record, (json.dumps(wanted, indent=1) + "\n").encode())
        (out / "images").mkdir(exist_ok=True)
        yield
        (out / "lock").unlink()
    finally:
        lock.release()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, path)


def end_with_parent() -> None:
    """End this worker, from now on, as soon as the process that began it is gone."""
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
