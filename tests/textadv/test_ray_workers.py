"""Shards on Ray workers: a cluster of two nodes on this machine, whose workers, nodes and driver die."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError, HarnessError
from harness.core.runs import Run
from harness.text.adversarial import ROWS_FILE
from harness.text.datasets import TextDataset
from textadv.engine import attack_config, one_process, run_attack
from textadv.journal import JOURNAL, Finished
from textadv.plan import AttackPlan
from textadv.ray_cluster import Cluster, gpu_share
from textadv.ray_workers import identity, ray_workers

ray = pytest.importorskip("ray", reason="Ray is not installed")
SHARD = 4


@pytest.fixture(scope="module", autouse=True)
def plainly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread here, as in the workers, and nothing sent anywhere."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plan(tiny_victim_folder: Any) -> AttackPlan:
    return AttackPlan(str(tiny_victim_folder()), "pwws")


@pytest.fixture(scope="module")
def dataset(plan: AttackPlan, sentences: Any) -> TextDataset:
    texts = sentences(40, seed=6)
    labels = plan.load_victim().read(texts).predictions
    return TextDataset("tiny", "test", texts, labels, np.arange(len(texts)), None, {})


@pytest.fixture(scope="module")
def reference(plan: AttackPlan, dataset: TextDataset, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The rows of one process."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    worker = plan.build()
    with Run(folder, "attack run", attack_config(dataset, worker, SHARD)) as run:
        run_attack(dataset, one_process(worker), run, shard_size=SHARD)
    return (folder / ROWS_FILE).read_bytes()


@dataclass
class Nodes:
    address: str
    add: Callable[[], Any]
    remove: Callable[[Any], None]
    second: Any


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head without room for workers, and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster as RayCluster

    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    second = cluster.add_node(num_cpus=1)
    yield Nodes(cluster.address, lambda: cluster.add_node(num_cpus=1), cluster.remove_node, second)
    ray.shutdown()
    cluster.shutdown()


def attack(
    plan: AttackPlan,
    dataset: TextDataset,
    folder: Path,
    cluster: Cluster,
    *,
    disturb: Callable[[int], None] = lambda number: None,
    log: Callable[[str], None] = lambda line: None,
) -> bytes:
    """The bytes of the rows; `disturb` is called after each shard with how many are there."""
    worker = plan.build()
    work_off = ray_workers(plan, identity(worker), cluster, log)

    def disturbed(shards: Any, ended: Any) -> Iterator[tuple[int, list[Finished]]]:
        for count, finished in enumerate(work_off(shards, ended), start=1):
            yield finished
            disturb(count)

    with Run(folder, "attack run", attack_config(dataset, worker, SHARD)) as run:
        run_attack(dataset, disturbed, run, shard_size=SHARD)
    return (folder / ROWS_FILE).read_bytes()


def save(dataset: TextDataset, folder: Path) -> Path:
    """Its texts and labels as a file that `--dataset` takes."""
    path = folder / "tiny.jsonl"
    lines = [{"text": text, "label": int(label)} for text, label in zip(dataset.texts, dataset.labels, strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def worker_processes() -> list[int]:
    """Our workers: a process of Ray's has the environment of whoever started it, and the tests' cache is their own."""
    ours = f"PALIMPSEST_CACHE={os.environ['PALIMPSEST_CACHE']}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or not (entry / "cmdline").read_bytes().startswith(b"ray::_Worker"):
                continue
            if ours in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def gone(processes: list[int]) -> bool:
    """Whether processes are no more, after a minute at most."""
    until = time.monotonic() + 60
    while any(Path(f"/proc/{process}").exists() for process in processes) and time.monotonic() < until:
        time.sleep(0.2)
    return not any(Path(f"/proc/{process}").exists() for process in processes)


def test_rows_are_the_same_bytes_on_two_nodes(
    plan: AttackPlan,
    dataset: TextDataset,
    reference: bytes,
    nodes: Nodes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(plan.victim)
    monkeypatch.chdir(folder.parent)  # where workers are not
    plan = replace(plan, victim=folder.name)
    seen = set()

    def look(count: int) -> None:
        seen.update(worker_processes())

    # Two have room; the third is not waited for at the end.
    assert attack(plan, dataset, tmp_path / "run", Cluster(3, nodes.address), disturb=look) == reference
    assert len(seen) == 2
    shards = [json.loads(line)["shard"] for line in (tmp_path / "run" / JOURNAL).read_text().splitlines()]
    assert sorted(shards) == list(range(10))
    assert gone(list(seen))


def test_workers_share_a_file_of_answers(
    plan: AttackPlan, dataset: TextDataset, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where workers are not
    plan = replace(plan, answers=Path("answers"))
    attack(plan, dataset, tmp_path / "run", Cluster(2, nodes.address))
    victim = plan.load_victim()
    assert plan.build(victim).attack(dataset.take(range(SHARD)))
    assert victim.forwards == 0


def test_workers_that_are_killed_are_replaced(
    plan: AttackPlan, dataset: TextDataset, reference: bytes, nodes: Nodes, tmp_path: Path
) -> None:
    killed, told = [], []

    def kill(count: int) -> None:
        if count == 3:
            for process in worker_processes():
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    assert (
        attack(plan, dataset, tmp_path / "run", Cluster(2, nodes.address), disturb=kill, log=told.append) == reference
    )
    assert killed
    assert told
    assert all(line.startswith(("a worker died on texts ", "a worker died as it started")) for line in told)


def test_a_node_that_dies_takes_no_row_with_it(
    plan: AttackPlan, dataset: TextDataset, reference: bytes, nodes: Nodes, tmp_path: Path
) -> None:
    def remove(count: int) -> None:
        if count == 2:
            nodes.remove(nodes.second)
        if count == 6:
            nodes.second = nodes.add()

    assert attack(plan, dataset, tmp_path / "run", Cluster(2, nodes.address), disturb=remove) == reference


def test_a_worker_that_is_not_like_the_others_is_refused(plan: AttackPlan, dataset: TextDataset, nodes: Nodes) -> None:
    expected = {**identity(plan.build()), "victim": "another", "PyTorch": "1.0"}
    work_off = ray_workers(plan, expected, Cluster(1, nodes.address))
    with pytest.raises(ConfigurationError, match=r"victim is .* and not 'another'; PyTorch is .* and not '1.0'"):
        list(work_off([(0, dataset.take(range(SHARD)))], lambda text: None))


def test_a_victim_that_a_worker_does_not_find_is_named(plan: AttackPlan, dataset: TextDataset, nodes: Nodes) -> None:
    missing = replace(plan, victim="/nowhere/victim")  # as on another machine, where the driver's is not
    work_off = ray_workers(missing, identity(plan.build()), Cluster(1, nodes.address))
    with pytest.raises(HarnessError, match=f"the worker on {platform.node()} cannot start: .*/nowhere/victim"):
        list(work_off([(0, dataset.take(range(SHARD)))], lambda text: None))


class DeadlyPlan(AttackPlan):
    """Kills the process that attacks text 4, as a victim that takes too much memory would."""

    def build(self, victim: Any = None) -> Any:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""  # a worker without GPUs sees none
        worker = super().build(victim)
        attack = worker.attack

        def deadly(texts: TextDataset, *given: Any) -> Any:
            if 4 in texts.indices:
                os.kill(os.getpid(), signal.SIGKILL)
            return attack(texts, *given)

        worker.attack = deadly  # type: ignore[method-assign]
        return worker


def test_a_shard_that_always_kills_its_worker_is_named(plan: AttackPlan, dataset: TextDataset, nodes: Nodes) -> None:
    expected = identity(plan.build())
    work_off = ray_workers(DeadlyPlan(plan.victim, plan.recipe), expected, Cluster(2, nodes.address))
    shards = [(k, dataset.take(range(k * SHARD, (k + 1) * SHARD))) for k in range(3)]
    kept: list[int] = []

    def work() -> None:
        kept.extend(number for number, _ in work_off(shards, lambda text: None))

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        with pytest.raises(ConfigurationError, match=r"3 workers died on the same shard \(texts 4, 5, 6, 7\)"):
            work()
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert 1 not in kept


def test_workers_that_never_start_are_given_up(plan: AttackPlan, dataset: TextDataset, nodes: Nodes) -> None:
    """Here because a module of the driver's, this one, is not installed where they are."""
    work_off = ray_workers(DeadlyPlan(plan.victim, plan.recipe), {}, Cluster(1, nodes.address))
    with pytest.raises(ConfigurationError, match=r"3 workers died as they started and none lived; .*No module named"):
        list(work_off([(0, dataset.take(range(SHARD)))], lambda text: None))


def test_workers_without_room_are_given_up(plan: AttackPlan, dataset: TextDataset, nodes: Nodes) -> None:
    work_off = ray_workers(plan, identity(plan.build()), Cluster(1, nodes.address, threads=8, patience=4))
    with pytest.raises(ConfigurationError, match="each needs 8 CPU and 0 GPU, the cluster has 2 CPU and 0 GPU"):
        list(work_off([(0, dataset.take(range(SHARD)))], lambda text: None))


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("nonsense", "--ray-address nonsense is not an address"),
        ("ray://127.0.0.1:10001", "is not an address"),
        ("host:99999", "is not an address"),
        ("127.0.0.1:{port}", "no Ray cluster can be reached at 127.0.0.1:.*refused"),
    ],
)
def test_an_address_where_no_cluster_is(address: str, told: str, plan: AttackPlan) -> None:
    with pytest.raises(ConfigurationError, match=told):
        ray_workers(plan, {}, Cluster(1, address.format(port=closed_port())))


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "auto"])
def test_nothing_is_left_where_no_cluster_is(
    address: str,
    main: Callable[..., int],
    plan: AttackPlan,
    dataset: TextDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def none_found(**_: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance. Some advice.")

    monkeypatch.setattr(ray, "init", none_found)  # `auto` would find the cluster of these tests, or another
    out = tmp_path / "run"
    address = address.format(port=closed_port())
    options = ["--dataset", save(dataset, tmp_path), "--victim", plan.victim, "--out", out]
    assert main("attack", "run", *options, "--workers", "1", "--ray-address", address) == 2
    assert f"error: no Ray cluster can be reached at {address}: " in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("gpus", "told"), [(1.5, "is not possible"), (100, "this machine has")])
def test_gpus_that_cannot_be_had_are_refused_at_once(gpus: float, told: str, plan: AttackPlan) -> None:
    with pytest.raises(ConfigurationError, match=told):
        ray_workers(plan, {}, Cluster(1, gpus=gpus))


@given(st.integers(1, 200), st.integers(0, 64))
def test_a_share_of_gpus_leaves_room_for_all(workers: int, gpus: int) -> None:
    share = gpu_share(workers, gpus)
    if not gpus:
        assert share == 0
        return
    assert 0 < share <= 1
    assert int(share * 10_000 + 0.5) / 10_000 == share
    on_one = int(10_000 // round(share * 10_000))  # no worker is split between two
    assert on_one * gpus >= workers
    assert share > gpus / (workers + gpus) - 2e-4  # and it is not less than that needs


def test_a_driver_that_is_killed_leaves_shards_and_no_processes(
    plan: AttackPlan, dataset: TextDataset, reference: bytes, tmp_path: Path
) -> None:
    """The command itself, with a Ray of its own on this machine."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "harness", "attack", "run", "--dataset", str(save(dataset, tmp_path))]
    command += ["--victim", plan.victim, "--workers", "2", "--shard-size", str(SHARD), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if (out / JOURNAL).exists() and (out / JOURNAL).read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[0]
    workers = worker_processes()
    assert workers
    process.kill()
    process.wait()
    kept = (out / JOURNAL).read_bytes()
    assert gone(workers)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / JOURNAL).read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert (out / ROWS_FILE).read_bytes() == reference
