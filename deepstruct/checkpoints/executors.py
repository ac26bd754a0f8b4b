"""The executors that are built in: this process, and a pool of processes on this machine."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from deepstruct.errors import CapacityError, DeepstructError, InputError
from deepstruct.plugin.events import Done, Work, WorkOptions
from deepstruct.plugin.markers import hookimpl

_READY = "ready"
"""What a worker says when it has started."""


class WorkerDied(DeepstructError):
    """The process that worked on an item ended before it was done."""


class InProcess:
    """One item after the other, here. What kills a process kills this one."""

    name = "in-process"

    def available(self) -> str | None:
        """Always."""
        return None

    def run(self, work: Work, items: Sequence[Any], options: WorkOptions) -> Iterator[Done[Any]]:
        """See `deepstruct.plugin.protocols.Executor`. `options.threads` sets the threads of torch meanwhile."""
        import torch

        before = torch.get_num_threads()
        if options.threads:
            torch.set_num_threads(options.threads)
        try:
            for index, item in enumerate(items):
                try:
                    done: Done[Any] = Done(index, work(item))
                except Exception as error:
                    done = Done(index, error=error)
                yield done
        finally:
            torch.set_num_threads(before)


class LocalPool:
    """Spawned processes, each with one item at a time.

    So it is known which item a dead worker had: its place is taken by a new process, and when all other items are
    done the item is tried again, alone; only if that fails too, it counts as crashed. Of `options.extra`,
    "timeout" is the number of seconds after which a worker that is not done is ended.
    """

    name = "local"

    def available(self) -> str | None:
        """Always."""
        return None

    def run(self, work: Work, items: Sequence[Any], options: WorkOptions) -> Iterator[Done[Any]]:
        """See `deepstruct.plugin.protocols.Executor`."""
        threads = options.threads or max(1, (os.cpu_count() or 1) // options.workers)
        try:
            payload = pickle.dumps(work)
        except Exception as error:
            raise InputError(
                f"the work cannot be sent to other processes: {error}; name the model as 'package.module:factory', or "
                "pass a function or class that is defined in a module"
            ) from error
        pool = _Pool(payload, threads, options)
        try:
            suspects: list[tuple[int, str]] = []
            for index, result, lost in pool.run(deque((k, item) for k, item in enumerate(items)), options.workers):
                if lost is None:
                    yield _done(index, result)
                elif options.attempts > 1:
                    suspects.append((index, lost))
                else:
                    yield Done(index, error=WorkerDied(lost), crashed=True)
            for index, first in suspects:
                yield self._alone(pool, index, items[index], first, options.attempts)
        finally:
            pool.close()

    def _alone(self, pool: _Pool, index: int, item: Any, reason: str, attempts: int) -> Done[Any]:
        for _ in range(attempts - 1):
            for _, result, lost in pool.run(deque([(index, item)]), 1):
                if lost is None:
                    return _done(index, result)
                reason = lost
        return Done(index, error=WorkerDied(f"{reason}; tried {attempts} times"), crashed=True)


def _done(index: int, result: tuple[bool, Any]) -> Done[Any]:
    fine, value = result
    return Done(index, value) if fine else Done(index, error=value)


class _Worker:
    def __init__(self, context: Any, payload: bytes, threads: int, memory: int | None) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, payload, threads, memory), daemon=True)
        with _environment(threads):
            self.process.start()
        theirs.close()
        self.index: int | None = None
        self.since = float("inf")  # when it began its item; it has not while it starts
        self.ready = self.proven = False  # it has started; it has answered once

    def give(self, index: int, item: Any) -> None:
        self.index, self.since = index, time.monotonic() if self.ready else float("inf")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its death is told by its sentinel
            self.pipe.send(item)

    def end(self) -> None:
        self.process.kill()
        self.process.join(5)
        self.pipe.close()

    def how(self) -> str:
        self.process.join(5)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
            return f"its worker was ended by {name}{hint}"
        return f"its worker ended with exit code {code}"


class _Pool:
    """Workers that are started when there is something to do, and replaced when they die."""

    def __init__(self, payload: bytes, threads: int, options: WorkOptions) -> None:
        self._context = mp.get_context("spawn")
        self._payload, self._threads, self._memory = payload, threads, options.memory
        self._timeout = options.extra.get("timeout")
        self._workers: list[_Worker] = []
        self._stillborn = 0

    def run(
        self, waiting: deque[tuple[int, Any]], workers: int
    ) -> Iterator[tuple[int, tuple[bool, Any], str | None]]:
        """(index, (fine, value or error), None) for each item, or (index, ..., how its worker died)."""
        busy = 0
        while waiting or busy:
            idle = [worker for worker in self._workers if worker.index is None]
            while waiting and busy < workers:
                worker = idle.pop() if idle else self._start()
                worker.give(*waiting.popleft())
                busy += 1
            for worker, answer, lost in self._answers():
                index = worker.index
                assert index is not None
                worker.index, busy = None, busy - 1
                yield index, answer, lost

    def _start(self) -> _Worker:
        worker = _Worker(self._context, self._payload, self._threads, self._memory)
        self._workers.append(worker)
        return worker

    def _answers(self) -> Iterator[tuple[_Worker, tuple[bool, Any], str | None]]:
        """What came from the workers; waits until there is something."""
        working = [worker for worker in self._workers if worker.index is not None]
        handles: dict[Any, _Worker] = {}
        for worker in working:
            handles[worker.pipe] = handles[worker.process.sentinel] = worker
        limit = None
        if self._timeout:
            first = min(worker.since for worker in working)
            limit = None if first == float("inf") else max(0.0, first + float(self._timeout) - time.monotonic()) + 0.01
        ready = {id(handles[handle]): handles[handle] for handle in wait(list(handles), limit)}
        for worker in working:
            if id(worker) in ready:
                answer = _received(worker.pipe)
                if answer == _READY:
                    worker.ready, worker.since = True, time.monotonic()
                elif answer is not None:
                    worker.proven, self._stillborn = True, 0
                    yield worker, answer, None
                else:
                    yield worker, (False, None), self._buried(worker, worker.how())
            elif self._timeout and time.monotonic() - worker.since > float(self._timeout):
                yield worker, (False, None), self._buried(worker, f"not done within {float(self._timeout):g} s")

    def _buried(self, worker: _Worker, how: str) -> str:
        worker.end()
        self._workers.remove(worker)
        if not worker.proven:
            self._stillborn += 1
            if self._stillborn > 8:
                raise CapacityError(
                    f"workers die before they have done anything ({how}): give them more memory, or run with "
                    "executor='in-process' to see the error; a script that starts workers needs "
                    "`if __name__ == '__main__':` around that"
                )
        return how

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()


def _received(pipe: Connection) -> Any:
    """The next message; None when its sender is gone."""
    try:
        if pipe.poll():
            return pipe.recv()
    except (EOFError, OSError):
        return None
    return None


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Threads of the libraries that read the environment when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve(pipe: Connection, payload: bytes, threads: int, memory: int | None) -> None:
    """The life of a worker: items come, answers go, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that the user started
    import torch

    torch.set_num_threads(threads)
    problem: Exception | None = None
    try:
        work = pickle.loads(payload)
    except Exception as error:
        problem = InputError(f"the work cannot be unpacked in a worker: {type(error).__name__}: {error}")
    if memory is not None:
        _limit_memory(memory)
    with contextlib.suppress(BrokenPipeError, OSError):
        pipe.send(_READY)
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = (False, problem) if problem is not None else (True, work(item))
        except Exception as error:
            answer = (False, error)
        try:
            pipe.send(answer)
        except (BrokenPipeError, OSError):
            return
        except Exception as error:  # a result or an error that does not pickle
            pipe.send((False, InputError(f"{type(answer[1]).__name__}: {answer[1]} ({error})")))


def _limit_memory(limit: int) -> None:
    """Let allocations beyond the limit fail in this process, so that one checkpoint fails and no other."""
    try:
        import resource
    except ImportError:  # Windows
        return
    # Data alone: the address space also holds libraries and files that are mapped.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


@hookimpl
def deepstruct_executors() -> list[Any]:
    """The executors that are built in."""
    return [InProcess(), LocalPool()]
