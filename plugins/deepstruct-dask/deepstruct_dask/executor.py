"""An executor whose workers are those of a Dask cluster."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from deepstruct.errors import InputError
from deepstruct.plugin.events import Done, Work, WorkOptions


class DaskExecutor:
    """One task for each item. `options.extra["scheduler"]` is the address of a cluster; without it, one is started."""

    name = "dask"

    def available(self) -> str | None:
        """None, or that Dask is missing."""
        if importlib.util.find_spec("distributed") is None:
            return "it needs distributed: pip install 'dask[distributed]'"
        return None

    def run(self, work: Work, items: Sequence[Any], options: WorkOptions) -> Iterator[Done[Any]]:
        """See `deepstruct.plugin.protocols.Executor`. A task whose workers keep dying gives a crashed `Done`."""
        import dask
        from distributed import Client, LocalCluster, as_completed
        from distributed.scheduler import KilledWorker

        threads = options.threads or max(1, (os.cpu_count() or 1) // options.workers)
        address = options.extra.get("scheduler")
        with ExitStack() as stack:
            if address is None:
                # How often a task may take its worker along is asked when the scheduler starts.
                stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": options.attempts - 1}))
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
            # The work may hold a whole model: it goes to each worker once, not along with every item.
            sent = client.scatter(work, broadcast=True, hash=False)
            futures = {client.submit(_call, sent, item, threads, pure=False): k for k, item in enumerate(items)}
            for future in as_completed(futures, loop=client.loop, raise_errors=False):
                index = futures[future]
                if future.status == "finished":
                    yield Done(index, future.result())
                else:
                    error = future.exception()
                    crashed = isinstance(error, KilledWorker)
                    if crashed:
                        error = RuntimeError("its workers ended, one after the other, while they worked on it")
                    yield Done(index, error=error, crashed=crashed)
                future.release()


def _call(work: Work, item: Any, threads: int) -> Any:
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return work(item)
