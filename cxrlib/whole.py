"""Folders written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of `folder` once all went well.

    At any moment the old content is at `folder` or beside it. A link is followed.
    """
    folder = Path(folder).resolve()
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        old = part.with_suffix(".old")
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
