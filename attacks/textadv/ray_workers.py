"""Attack shards on many workers, on one machine or many: stateful Ray actors, each with its own victim.

A worker attacks one shard at a time. One that dies (killed, out of memory, its machine gone) is replaced and its
shard is done again, from nothing: what a shard's rows hold depends on no worker. Ray carries plain values: the
plan, texts, rows.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from harness.core.errors import ConfigurationError, HarnessError
from harness.text.datasets import TextDataset
from harness.text.sources import victim_pointer
from harness.text.victims import VICTIMS
from textadv.engine import WorkOff
from textadv.journal import Finished
from textadv.plan import AttackPlan
from textadv.ray_cluster import Cluster, check_cluster, connected
from textadv.recipes import RECIPES
from textadv.runtime import textattack_version
from textadv.shards import ShardWorker

# Times a shard may take its worker with it, and a worker may die before it is ready.
MOST_DEATHS = 3
_NEWS = 5.0


def identity(worker: ShardWorker) -> dict[str, Any]:
    """What must be equal wherever a run's shards are attacked."""
    victim = worker.parts.victim
    return {
        "victim": victim.hash,
        "victim's tokens": victim.max_length,
        "precision": victim.dtype,
        "device": victim.device.type,
        "artifacts": dict(sorted(worker.parts.hashes.items())),
        "recipe's package": RECIPES.add_on(worker.recipe.name),
        "TextAttack": textattack_version(),
        "palimpsest": metadata.version("palimpsest"),
        "PyTorch": metadata.version("torch"),
        "transformers": metadata.version("transformers"),
    }


def ray_workers(
    plan: AttackPlan,
    expected: Mapping[str, Any],
    cluster: Cluster,
    log: Callable[[str], None] = lambda line: None,
) -> WorkOff:
    """Who attacks shards: workers on a Ray cluster.

    Args:
        plan: What every worker builds for itself; paths in it must lead to the same files on every machine.
        expected: The `identity` that every worker must have. Its device is that of this process, where workers need
            not have one alike: they have GPUs or they have none.
        cluster: Where they run.
        log: Told of every worker that dies.

    Raises:
        ConfigurationError: Ray is not installed or not to be reached, the workers have no room, or one is not like
            the others.
    """
    check_cluster(cluster)
    everywhere = replace(
        plan,
        # A worker has a working directory of its own.
        victim=plan.victim if plan.victim in VICTIMS else victim_pointer(plan.victim),
        artifacts=plan.artifacts.resolve() if plan.artifacts else None,
        answers=plan.answers.resolve() if plan.answers else None,
    )

    def work_off(
        shards: Sequence[tuple[int, TextDataset]], ended: Callable[[Finished], None]
    ) -> Iterator[tuple[int, list[Finished]]]:
        if not shards:
            return
        with connected(cluster) as gpus:
            crew = _Crew(everywhere, {**expected, "device": "cuda" if gpus else "cpu"}, cluster, gpus, log)
            try:
                for number, texts in crew.work_off(shards):
                    for text in texts:
                        ended(text)
                    yield number, texts
            finally:
                crew.dismiss()

    return work_off


@dataclass
class _Post:
    """A worker, and what is awaited of it.

    Attributes:
        worker: The actor.
        machine: Where it runs; empty while it has no place.
        shard: What it attacks; None while it starts.
    """

    worker: Any
    machine: str = ""
    shard: tuple[int, TextDataset] | None = None


class _Crew:
    """The workers of one run, and what each is doing."""

    def __init__(
        self,
        plan: AttackPlan,
        expected: Mapping[str, Any],
        cluster: Cluster,
        gpus: float,
        log: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._expected = expected
        self._cluster = cluster
        self._gpus = gpus
        self._log = log
        self._awaited: dict[Any, _Post] = {}
        self._deaths: Counter[int] = Counter()
        self._stillborn = 0

    def work_off(self, shards: Sequence[tuple[int, TextDataset]]) -> Iterator[tuple[int, list[Finished]]]:
        """Finished shards, as they come."""
        import ray

        todo = deque(shards)
        placed = time.monotonic()
        while todo or any(post.shard for post in self._awaited.values()):
            self._staff(len(todo))
            done, _ = ray.wait(list(self._awaited), num_returns=1, timeout=_NEWS)
            if any(post.machine for post in self._awaited.values()):
                placed = time.monotonic()
            if not done:
                if time.monotonic() - placed > self._cluster.patience:
                    raise self._no_room()
                continue
            post = self._awaited.pop(done[0])
            answer = self._answer(post, done[0])
            if answer is None:
                if post.shard:
                    todo.appendleft(post.shard)
                continue
            if not post.machine:
                post.machine = answer
                self._awaited[post.worker.identity.remote()] = post
                continue
            if post.shard:
                yield post.shard[0], answer
            else:
                self._stillborn = 0
                self._check(post.machine, answer)
            if todo:
                post.shard = todo.popleft()
                self._awaited[post.worker.attack.remote(post.shard[1])] = post
            else:
                ray.kill(post.worker)

    def _answer(self, post: _Post, awaited: Any) -> Any:
        """What a worker answered; None where it died."""
        import ray

        try:
            return ray.get(awaited)
        except ray.exceptions.RayTaskError as error:
            ray.kill(post.worker)
            if isinstance(error.cause, HarnessError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:  # the worker, its machine or what it sent is lost
            ray.kill(post.worker)
            self._mourn(post, error)
            return None

    def dismiss(self, *, starting: bool = False) -> None:
        """End all workers, or those that are still starting."""
        import ray

        for awaited, post in list(self._awaited.items()):
            if not (starting and post.shard):
                ray.kill(post.worker)
                del self._awaited[awaited]

    def _staff(self, todo: int) -> None:
        """Have as many workers start as there is work for."""
        if not todo:
            self.dismiss(starting=True)
        starting = sum(post.shard is None for post in self._awaited.values())
        for _ in range(min(self._cluster.workers - len(self._awaited), todo - starting)):
            self._hire()

    def _hire(self) -> None:
        import ray

        threads = self._cluster.threads
        variables = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        if not self._gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides GPUs from those who get a part of them only
        actor = ray.remote(_Worker).options(
            num_cpus=threads,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": variables},
        )
        worker: Any = actor.remote(self._plan, threads)
        self._awaited[worker.machine.remote()] = _Post(worker)

    def _mourn(self, post: _Post, error: Exception) -> None:
        """A worker died: go on, unless it is always the same shard, or none ever starts."""
        told = f"{_reason(error)} ({post.machine or 'before it had a place'})"
        if post.shard is None:
            self._log(f"a worker died as it started, another takes its place: {told}")
            self._stillborn += 1
            # All of them may have been on one machine that is gone.
            if self._stillborn >= MOST_DEATHS * self._cluster.workers:
                raise ConfigurationError(
                    f"{self._stillborn} workers died as they started and none lived; the last: {told}.",
                    "Is there memory for so many, and is palimpsest installed on every machine of the cluster?",
                ) from error
            return
        number, texts = post.shard
        indices = ", ".join(map(str, texts.indices.tolist()))
        self._log(f"a worker died on texts {indices}, which are attacked again: {told}")
        if getattr(error, "preempted", False):
            return  # its machine was taken away, which no text does
        self._deaths[number] += 1
        if self._deaths[number] >= MOST_DEATHS:
            raise ConfigurationError(
                f"{MOST_DEATHS} workers died on the same shard (texts {indices}); the last: {told}.",
                "Finished shards are kept. Give workers more memory, take a smaller --shard-size or leave a text out.",
            ) from error

    def _check(self, machine: str, found: Mapping[str, Any]) -> None:
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
            f"and {self._gpus:g} GPU, the cluster has {whole.get('CPU', 0):g} CPU and {whole.get('GPU', 0):g}"
            " GPU in all.",
            "Ask for fewer threads or GPUs a worker, or wait until the cluster is free.",
        )


def _reason(error: Exception) -> str:
    """Why a worker died, of the page that Ray prints of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return " ".join(" ".join(lines[-1:] or [type(error).__name__]).split())[:200].rstrip(".")


class _Worker:
    """Lives in a process of Ray's: a victim and all that an attack needs, loaded once."""

    def __init__(self, plan: AttackPlan, threads: int) -> None:
        self._plan = plan
        self._threads = threads

    def machine(self) -> str:
        """Where this is."""
        import platform

        return platform.node()

    def identity(self) -> dict[str, Any]:
        """Load everything: what must be equal everywhere.

        Raises:
            ConfigurationError: Something is not on this machine that is on the driver's.
        """
        import torch

        torch.set_num_threads(self._threads)
        try:
            self._worker = self._plan.build()
        except HarnessError as error:
            raise ConfigurationError(
                f"the worker on {self.machine()} cannot start: {error.message}",
                f"Every machine needs the same files under the same paths, on a shared file system. {error.hint}",
            ) from error
        return identity(self._worker)

    def attack(self, texts: TextDataset) -> list[Finished]:
        """What became of each text of a shard."""
        return self._worker.attack(texts)
