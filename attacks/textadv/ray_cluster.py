"""A connection to Ray: to a cluster that is there, or to one of this process's own on this machine."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.core.errors import ConfigurationError

# Seconds without any worker that is ready or at work: a cluster that grows may take minutes, a full one for ever.
PATIENCE = 300.0
_STORE_BYTES = 100 * 2**20  # shards and rows are small
_ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Cluster:
    """Where workers run.

    Attributes:
        workers: How many.
        address: A running Ray cluster, such as `auto` or HOST:PORT; None starts one on this machine.
        gpus: GPUs of a worker, such as 0.25; None for its share of the cluster's.
        threads: PyTorch threads of a worker; rows are the same bytes for the same number.
        patience: Seconds to wait while no worker has a place to run.
    """

    workers: int
    address: str | None = None
    gpus: float | None = None
    threads: int = 1
    patience: float = PATIENCE


def check_cluster(cluster: Cluster) -> None:
    """Refuse what can never work, before any work is done.

    Raises:
        ConfigurationError: Ray is not installed, nothing answers at the address, or this machine lacks the GPUs.
    """
    # Both are read at its import. It sends usage statistics unless told otherwise, and asks an address that does not
    # answer for a quarter of an hour.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if cluster.address is not None:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "--workers needs Ray, which is not installed.", 'Install it: pip install "palimpsest[ray]".'
        ) from error
    gpus = cluster.gpus or 0.0
    if gpus > 1 and not float(gpus).is_integer():
        raise ConfigurationError(
            f"--gpus-per-worker {gpus:g} is not possible: Ray gives a part of one GPU, or whole ones.",
            "Give 1 or less, or a whole number.",
        )
    if cluster.address is not None:
        _check_address(cluster.address)
        with connected(cluster):
            pass
    elif gpus > _gpus_here():
        raise ConfigurationError(
            f"--gpus-per-worker {gpus:g}: this machine has {_gpus_here()} GPU that PyTorch can use.",
            "Ask for fewer, or join a cluster with --ray-address.",
        )


def _check_address(address: str) -> None:
    """Knock at HOST:PORT: Ray itself would try for most of a minute, and print a line each time."""
    import ray

    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigurationError(
            f"--ray-address {address} is not an address.",
            "Give `auto` or the HOST:PORT that `ray start --head` printed, on a machine of the cluster.",
        )
    host = host.strip("[]")
    hosts = [host]
    if host in ("localhost", "127.0.0.1", "::1"):
        hosts.append(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]  # which is what Ray makes of it
    errors: list[OSError] = []
    for place in hosts:
        try:
            socket.create_connection((place, int(port)), timeout=_ANSWER_SECONDS).close()
            return
        except OSError as error:
            errors.append(error)
    raise _not_reached(address, str(errors[0].strerror or errors[0])) from errors[0]


def _not_reached(address: str | None, why: str) -> ConfigurationError:
    if address is None:
        return ConfigurationError(f"Ray does not start on this machine: {why}.", "Its logs are in /tmp/ray.")
    return ConfigurationError(
        f"no Ray cluster can be reached at {address}: {why.rstrip('.')}.",
        "Start one with `ray start --head`, join this machine to it, and give `auto` or the HOST:PORT it printed; "
        "where the cluster asks for a token, set RAY_AUTH_MODE=token as well.",
    )


@contextmanager
def connected(cluster: Cluster) -> Iterator[float]:
    """Connect to Ray: the GPUs of a worker.

    A cluster that was started here is stopped here; one that was joined is left as it was.

    Raises:
        ConfigurationError: Ray cannot be reached or does not start.
    """
    import ray

    if ray.is_initialized():
        # Whoever did that wants it used, and will end it.
        yield _gpus_of_a_worker(cluster)
        return
    options: dict[str, Any] = {"address": cluster.address}
    if cluster.address is None:
        options = {
            "address": "local",
            "num_cpus": cluster.workers * cluster.threads,
            "num_gpus": 0 if cluster.gpus == 0 else _gpus_here(),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
        }
    try:
        try:
            with _undisturbed():
                ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError, OSError) as error:
            told = str(error).splitlines()
            raise _not_reached(cluster.address, told[0] if told else type(error).__name__) from error
        yield _gpus_of_a_worker(cluster)
    finally:
        with _undisturbed():
            ray.shutdown()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits for the end of this: in the middle of Ray's start or end it leaves processes, or a crash."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *signal_and_frame: came.append(signal_and_frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if came and callable(before):
            before(*came[0])


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _gpus_of_a_worker(cluster: Cluster) -> float:
    import ray

    if cluster.gpus is not None:
        return cluster.gpus
    whole: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return gpu_share(cluster.workers, int(whole.get("GPU", 0)))


def gpu_share(workers: int, gpus: int) -> float:
    """The part of a GPU that each of some workers has: none is split between two GPUs, and all fit.

    Rounded down to what Ray counts in, a ten-thousandth.
    """
    if not gpus:
        return 0.0
    together = max(1, math.ceil(workers / gpus))
    return math.floor(10_000 / together) / 10_000
