"""The same function on many arguments, in several processes or on several machines."""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from distributed.deploy import Cluster

Scheduler: TypeAlias = "str | Cluster | None"
WAIT = 60  # seconds for a scheduler to answer, and for a first worker
ADDRESS = r"inproc://.+|((tcp|tls|ws|wss|ucx)://)?[^/\s]+:\d+"
one_part = Lock()  # a worker with several threads has one model, which uses several cores


class ClusterError(ValueError):
    """A cluster that cannot do the work, with the way out."""


def spread(
    function: Callable,
    tasks: Iterable[tuple],
    scheduler: Scheduler = None,
    workers: int | None = None,
) -> Iterator[tuple]:
    """Yield (label, function(argument)) once per task, in the order they are done.

    A task whose worker dies is given to another one. Each worker has two tasks at a time. Raises
    ClusterError where the extra `cluster` is not installed, no scheduler or worker is there, or a
    task kills every worker.

    Parameters
    ----------
    function : without side effects, of a module that the workers can import
    tasks : label, which stays here, and argument, which is sent
    scheduler : address of a dask.distributed scheduler, such as tls://host:8786, or a cluster that
        this process made, with its credentials. Only name one that you trust: whoever reaches it
        can run code in its workers and in this process, and it sees your paths.
    workers : or the number of processes to start here, up to four per core, which end with the
        last task. They talk over TLS with a key of this call, so that no other account of this
        machine can send them work. A script starts them under `if __name__ == "__main__"`.
    """
    most = 4 * (os.cpu_count() or 1)
    if scheduler is None and not 1 <= (workers or 0) <= most:
        raise ClusterError(f"workers is {workers}: give 1 or more, and at most {most} here")
    tasks, labels = iter(tasks), {}
    with _connect(scheduler, workers) as client:
        from distributed import CancelledError, KilledWorker, as_completed

        done = as_completed(loop=client.loop)

        def fill():
            room = 2 * max(1, len(client.nthreads())) - len(labels)
            for label, argument in islice(tasks, max(0, room)):
                future = client.submit(function, argument, pure=False)
                labels[future] = label
                done.add(future)

        try:
            fill()
            for future in done:
                yield labels.pop(future), future.result()
                fill()
        except KilledWorker as error:
            if scheduler is None:  # a cluster that ends while a worker starts may raise
                with suppress(TimeoutError):
                    client.wait_for_workers(workers, timeout=WAIT)
            raise ClusterError(
                f"{error.allowed_failures + 1} workers died of the same task, the last at "
                f"{error.last_worker.address}: they have too little memory, or another "
                "installation than this one. See their logs."
            ) from error
        except (ImportError, RuntimeError) as error:
            raise ClusterError(
                f"scheduler or workers cannot run what they are sent: {error}. They need the same "
                "installation as this one."
            ) from error
        except CancelledError as error:
            raise ClusterError(
                f"the connection to {scheduler or 'the workers'} was lost. Give the same command "
                "again once they answer."
            ) from error


def refuse_other(found, wanted, what: str) -> None:
    """Raise ClusterError, on a worker, where it has found other settings than it was sent."""
    if found != wanted:
        raise ClusterError(
            f"a worker has {what}, other versions of cxrlib and its packages, or another "
            "CXR_THREADS than this process: give it the same"
        )


@contextmanager
def _connect(scheduler: Scheduler, workers: int | None):
    try:
        from dask import config
        from distributed import Client, LocalCluster, Security

        security = Security.temporary() if scheduler is None else None
    except ImportError as error:
        raise ClusterError(
            f"several workers: {error}. pip install '.[cluster]' in a clone or archive of cxrlib"
        ) from None
    if scheduler is None:
        # Their pages, which any account of this machine could read, would show tasks and logs.
        pages = {f"distributed.{who}.http.routes": [] for who in ("scheduler", "worker")}
        with config.set(pages):
            started = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=None,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,  # what fails is raised; others are of ends
                security=security,  # so it talks over TLS
            )
    elif isinstance(scheduler, str) and not re.fullmatch(ADDRESS, scheduler):
        raise ClusterError(f"scheduler '{scheduler}': give an address such as tls://host:8786")
    else:
        started = nullcontext(scheduler)
    with started as server:
        try:
            client = Client(server, timeout=WAIT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(f"no dask scheduler answers at {scheduler}: {error}") from error
        with client:
            try:
                client.wait_for_workers(1, timeout=WAIT)
            except TimeoutError:
                raise ClusterError(
                    f"{scheduler} has no worker: start one with `dask worker {scheduler}`"
                ) from None
            yield client
