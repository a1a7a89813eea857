"""Worker processes of this one, and the death of one of them while it has work."""

import os
import signal

import psutil
import pytest


def find_workers() -> list[psutil.Process]:
    """Return the worker processes that this one started."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture
def kill_worker_after(monkeypatch):
    """A function: the first call of a method, `owner.name`, kills a worker when it is done."""
    killed, before = [], len(find_workers())

    def kill_after(owner, name):
        method = getattr(owner, name)

        def call(*arguments):
            method(*arguments)
            if not killed:  # each worker has tasks now
                killed.append(find_workers()[0].pid)
                os.kill(killed[0], signal.SIGKILL)

        monkeypatch.setattr(owner, name, call)

    yield kill_after
    assert killed and not psutil.pid_exists(killed[0]) and len(find_workers()) == before
