"""Attack shards on many workers, on one machine or many: stateful Ray actors, each with its own victim.

A worker attacks one shard at a time. One that dies (killed, out of memory, its machine gone) is replaced and its
shard is done again, from nothing: what a shard's rows hold depends on no worker. Ray carries plain values: the
plan, texts, rows.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from harness.core.errors import ConfigurationError, HarnessError
from harness.text.datasets import TextDataset
from textadv.engine import WorkOff
from textadv.journal import Finished
from textadv.plan import AttackPlan
from textadv.runtime import textattack_version
from textadv.shards import ShardWorker

# Times a shard may take its worker with it, and workers may die before they are ready.
MOST_DEATHS = 3
# Seconds without any worker that is ready or at work: a cluster that grows may take minutes, a full one for ever.
PATIENCE = 300.0
_STORE_BYTES = 100 * 2**20  # shards and rows are small
_NEWS = 5.0


@dataclass(frozen=True)
class Cluster:
    """Where workers run.

    Attributes:
        workers: How many.
        address: A running Ray cluster, such as `auto` or HOST:PORT; None starts one on this machine.
        gpus: GPUs of a worker, such as 0.25; None for its share of this machine's.
        threads: PyTorch threads of a worker; rows are the same bytes for the same number.
        patience: Seconds to wait while no worker is ready.
    """

    workers: int
    address: str | None = None
    gpus: float | None = None
    threads: int = 1
    patience: float = PATIENCE


def identity(worker: ShardWorker) -> dict[str, Any]:
    """What must be equal wherever a run's shards are attacked."""
    victim = worker.parts.victim
    return {
        "victim": victim.hash,
        "victim's tokens": victim.max_length,
        "precision": victim.dtype,
        "device": victim.device.type,
        "artifacts": dict(sorted(worker.parts.hashes.items())),
        "TextAttack": textattack_version(),
        "palimpsest": metadata.version("palimpsest"),
        "PyTorch": metadata.version("torch"),
        "transformers": metadata.version("transformers"),
    }


def ray_workers(plan: AttackPlan, expected: Mapping[str, Any], cluster: Cluster) -> WorkOff:
    """Who attacks shards: workers on a Ray cluster.

    Args:
        plan: What every worker builds for itself; paths in it must lead to the same files on every machine.
        expected: The `identity` that every worker must have.
        cluster: Where they run.

    Raises:
        ConfigurationError: Ray is not installed or not to be reached, the workers have no room, or one is not like
            the others.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "--workers needs Ray, which is not installed.", 'Install it: pip install "palimpsest[ray]".'
        ) from error

    def work_off(
        shards: Sequence[tuple[int, TextDataset]], ended: Callable[[Finished], None]
    ) -> Iterator[tuple[int, list[Finished]]]:
        if not shards:
            return
        with _connected(cluster) as gpus:
            crew = _Crew(plan, expected, cluster, gpus)
            try:
                for number, texts in crew.work_off(shards):
                    for text in texts:
                        ended(text)
                    yield number, texts
            finally:
                crew.dismiss()

    return work_off


@contextmanager
def _connected(cluster: Cluster) -> Iterator[float]:
    """A connection to Ray, and the GPUs of a worker; what was started here is stopped here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    gpus = _gpus_of_a_worker(cluster)
    try:
        if cluster.address is None:
            ray.init(
                address="local",
                num_cpus=cluster.workers * cluster.threads,
                num_gpus=_gpus_here() if gpus else 0,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address=cluster.address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        told = str(error).splitlines()
        raise ConfigurationError(
            f"Ray cannot be reached at {cluster.address or 'this machine'}: {told[0] if told else 'no reason given'}.",
            "Start it with `ray start --head`, and give the address it prints.",
        ) from error
    try:
        yield gpus
    finally:
        ray.shutdown()


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _gpus_of_a_worker(cluster: Cluster) -> float:
    if cluster.gpus is not None:
        return cluster.gpus
    here = _gpus_here()
    # Ray takes parts of a GPU, or whole ones.
    return min(1.0, int(1000 * here / cluster.workers) / 1000) if here else 0.0


class _Crew:
    """The workers of one run, and what each is doing."""

    def __init__(self, plan: AttackPlan, expected: Mapping[str, Any], cluster: Cluster, gpus: float) -> None:
        self._plan = plan
        self._expected = dict(expected)
        self._cluster = cluster
        self._gpus = gpus
        # What is awaited -> the worker it is awaited of, and its shard; None while the worker starts.
        self._awaited: dict[Any, tuple[Any, tuple[int, TextDataset] | None]] = {}
        self._deaths: Counter[int] = Counter()
        self._stillborn = 0

    def work_off(self, shards: Sequence[tuple[int, TextDataset]]) -> Iterator[tuple[int, list[Finished]]]:
        """Finished shards, as they come."""
        import ray

        todo = deque(shards)
        for _ in range(min(self._cluster.workers, len(shards))):
            self._hire()
        waited, ready = 0.0, False
        while self._awaited:
            done, _ = ray.wait(list(self._awaited), num_returns=1, timeout=_NEWS)
            if not done:
                waited = waited if ready else waited + _NEWS
                if waited > self._cluster.patience:
                    raise self._no_room()
                continue
            worker, shard = self._awaited.pop(done[0])
            try:
                answer = ray.get(done[0])
            except ray.exceptions.RayActorError as error:
                ready = False
                self._mourn(shard, error)
                if shard:
                    todo.appendleft(shard)
                self._hire()
                continue
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, HarnessError):
                    raise error.cause from None
                raise
            ready, waited = True, 0.0
            if shard is None:
                self._stillborn = 0
                self._check(answer)
            else:
                yield shard[0], answer
            if todo:
                following = todo.popleft()
                self._awaited[worker.attack.remote(following[1])] = worker, following
            else:
                ray.kill(worker)

    def dismiss(self) -> None:
        """End all workers that are left."""
        import ray

        for worker, _ in self._awaited.values():
            ray.kill(worker)
        self._awaited.clear()

    def _hire(self) -> None:
        import ray

        actor = ray.remote(_Worker).options(
            num_cpus=self._cluster.threads,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self._cluster.threads), "OMP_WAIT_POLICY": "PASSIVE"}},
        )
        worker: Any = actor.remote(self._plan, self._cluster.threads)
        self._awaited[worker.identity.remote()] = worker, None

    def _mourn(self, shard: tuple[int, TextDataset] | None, error: Exception) -> None:
        """A worker died: go on, unless it is always the same shard, or none ever starts."""
        told = " ".join(str(error).split())[:300]
        if shard is None:
            self._stillborn += 1
            if self._stillborn >= MOST_DEATHS:
                raise ConfigurationError(
                    f"{self._stillborn} workers died as they started; the last: {told}."
                ) from error
            return
        number, texts = shard
        self._deaths[number] += 1
        if self._deaths[number] >= MOST_DEATHS:
            indices = ", ".join(map(str, texts.indices.tolist()))
            raise ConfigurationError(
                f"{MOST_DEATHS} workers died on the same shard (texts {indices}); the last: {told}.",
                "Finished shards are kept. Give workers more memory, take a smaller --shard-size or leave a text out.",
            ) from error

    def _check(self, answer: tuple[str, dict[str, Any]]) -> None:
        machine, found = answer
        wrong = [name for name, value in self._expected.items() if found[name] != value]
        if wrong:
            told = "; ".join(f"{name} is {found[name]!r} and not {self._expected[name]!r}" for name in wrong)
            raise ConfigurationError(
                f"the worker on {machine} is not like this process: {told}.",
                "Rows would differ. Install the same versions, and give paths that hold the same files everywhere.",
            )

    def _no_room(self) -> ConfigurationError:
        import ray

        whole: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return ConfigurationError(
            f"no worker could start in {self._cluster.patience:.0f} seconds: each needs {self._cluster.threads} CPU "
            f"and {self._gpus:g} GPU, the cluster has {whole.get('CPU', 0):g} CPU and {whole.get('GPU', 0):g} GPU.",
            "Ask for fewer GPUs a worker, or wait until the cluster is free.",
        )


class _Worker:
    """Lives in a process of Ray's: a victim and all that an attack needs, loaded once."""

    def __init__(self, plan: AttackPlan, threads: int) -> None:
        self._plan = plan
        self._threads = threads

    def identity(self) -> tuple[str, dict[str, Any]]:
        """Load everything: the machine's name, and what must be equal everywhere."""
        import platform

        import torch

        torch.set_num_threads(self._threads)
        self._worker = self._plan.build()
        return platform.node(), identity(self._worker)

    def attack(self, texts: TextDataset) -> list[Finished]:
        """What became of each text of a shard."""
        return self._worker.attack(texts)
