"""An executor whose workers are those of a Dask cluster."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from deepstruct.errors import InputError
from deepstruct.plugin.events import Done, Work, WorkOptions

_SMALL = 1 << 20  # bytes of work that may travel with every item


class DaskExecutor:
    """One task for each item. `options.extra["scheduler"]` is the address of a cluster; without it, one is started."""

    name = "dask"

    def available(self) -> str | None:
        """None, or that Dask is missing."""
        if importlib.util.find_spec("distributed") is None:
            return "it needs distributed: pip install 'dask[distributed]'"
        return None

    def run(self, work: Work, items: Sequence[Any], options: WorkOptions) -> Iterator[Done[Any]]:
        """See `deepstruct.plugin.protocols.Executor`. What keeps ending its workers gives a crashed `Done`."""
        import cloudpickle
        import dask
        from distributed import Client, LocalCluster, as_completed

        threads = options.threads or max(1, (os.cpu_count() or 1) // options.workers)
        address = options.extra.get("scheduler")
        with ExitStack() as stack:
            if address is None:
                # Asked when the scheduler starts: what takes its worker along is tried again by us, alone.
                stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0}))
                target: Any = stack.enter_context(
                    LocalCluster(
                        n_workers=options.workers, threads_per_worker=1, processes=True,
                        dashboard_address="127.0.0.1:0", memory_limit=options.memory or "auto", silence_logs=50,
                    )
                )  # fmt: skip
            else:
                target = str(address)
            try:
                client = stack.enter_context(Client(target, timeout="30s", set_as_default=False))
            except (OSError, ValueError) as error:
                raise InputError(f"no Dask scheduler answers at {address}: {error}") from error
            payload = cloudpickle.dumps(work)
            digest = hashlib.blake2b(payload, digest_size=16).hexdigest()
            # Scattered data is lost when every worker that holds it dies: what is small goes along with each item.
            sent = payload if len(payload) <= _SMALL else client.scatter(payload, broadcast=True, hash=False)

            def submit(index: int) -> Any:
                return client.submit(_call, sent, digest, items[index], threads, pure=False)

            futures = {submit(k): k for k in range(len(items))}
            suspects: list[int] = []
            for future in as_completed(futures, loop=client.loop, raise_errors=False):
                done = _done(futures[future], future)
                future.release()
                if done.crashed:
                    suspects.append(done.index)
                else:
                    yield done
            # A worker takes every task along that waits on it: which one is the culprit is told by running them alone.
            for index in suspects:
                for _ in range(max(1, options.attempts - 1)):
                    done = _done(index, submit(index))
                    if not done.crashed:
                        break
                yield done


def _done(index: int, future: Any) -> Done[Any]:
    from distributed.scheduler import KilledWorker

    error = future.exception()  # waits until the task is over
    if error is None:
        return Done(index, future.result())
    if isinstance(error, KilledWorker):
        return Done(index, error=RuntimeError("each worker that worked on it ended"), crashed=True)
    return Done(index, error=error)


_works: dict[str, Work] = {}


def _call(payload: bytes, digest: str, item: Any, threads: int) -> Any:
    """One item, on a worker; the work is unpacked once in each process."""
    import torch

    if digest not in _works:
        _works.clear()
        _works[digest] = pickle.loads(payload)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return _works[digest](item)
