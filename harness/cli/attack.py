"""`harness attack run`: make adversarial rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import attack_rows, attack_sets, options

if TYPE_CHECKING:
    from harness.core.runs import Run
    from harness.text.adversarial import AdversarialRow
    from harness.text.datasets import TextDataset
    from harness.text.victims import Victim
    from textadv.plan import AttackPlan

app = options.verb("Make adversarial datasets, show, check and compare them, import and export logs.")


@app.command()
def run(
    dataset: options.Dataset,
    victim: options.VictimSpec,
    out: options.Out,
    recipe: Annotated[str, typer.Option(help="The attack recipe (harness list attacks).")] = "pwws",
    split: Annotated[str, typer.Option(help="The split to attack.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Texts to attack, drawn by seed; by default all.")] = None,
    seed: options.Seed = 0,
    target_class: Annotated[int | None, typer.Option(help="The label to reach; by default any wrong one.")] = None,
    min_confidence: Annotated[
        float | None, typer.Option(help="Go on until the victim is this sure of the wrong label, such as 0.9.")
    ] = None,
    evade: Annotated[
        Path | None,
        typer.Option(metavar="DETECTOR_DIR", help="A fitted detector that texts must pass as well, or hub:ORG/NAME."),
    ] = None,
    evade_fpr: Annotated[
        float, typer.Option(help="The detector's false-positive rate, on texts of the split that are not attacked.")
    ] = 0.1,
    evade_threshold: Annotated[
        float | None, typer.Option(help="The highest score that passes, instead of --evade-fpr.")
    ] = None,
    query_limit: Annotated[int | None, typer.Option(help="Queries a text may cost.")] = None,
    time_limit: Annotated[str | None, typer.Option(help="Time a text may take, such as 30s or 5m.")] = None,
    artifacts: options.Artifacts = None,
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep what the models say, for other attacks on the victim.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Ray workers; by default this process alone.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="A running Ray cluster, such as auto or HOST:PORT.")] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="GPUs of a worker, such as 0.25; by default its share.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="PyTorch threads of a process; by default all cores, or 1 for workers.")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Texts attacked together: what a killed run loses.")] = 32,
    batch_size: options.BatchSize = 32,
    max_length: options.MaxLength = None,
    dtype: options.Dtype = "fp32",
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
) -> None:
    """Attack a classifier and write adversarial rows; kill it at any moment, the same command resumes."""
    from harness.cli.tables import print_attack_summary
    from harness.core.errors import ConfigurationError
    from harness.core.runs import Run
    from harness.text.adversarial import read_rows
    from harness.text.datasets import load_dataset
    from harness.text.sources import dataset_pointer, victim_pointer
    from textadv.engine import attack_config, check_texts, one_process, run_attack, set_threads
    from textadv.plan import AttackPlan
    from textadv.ray_cluster import Cluster
    from textadv.ray_workers import identity, ray_workers
    from textadv.recipes import RECIPES

    if workers is None and (ray_address is not None or gpus_per_worker is not None):
        raise ConfigurationError("--ray-address and --gpus-per-worker are for workers.", "Say how many: --workers N.")
    RECIPES.get(recipe).check()  # a wrong name is told before anything is loaded
    plan = AttackPlan(
        victim=victim,
        recipe=recipe,
        seed=seed,
        max_length=max_length,
        dtype=dtype,
        batch_size=batch_size,
        target_class=target_class,
        min_confidence=min_confidence,
        query_limit=query_limit,
        seconds_limit=options.seconds("--time-limit", time_limit) if time_limit else None,
        artifacts=artifacts,
        answers=answers,
    )
    used = set_threads(threads, workers)
    whole = load_dataset(dataset, split, text_column=text_column, label_column=label_column)
    model = plan.load_victim()
    whole = model.with_own_labels(whole)
    model.check_labels(whole.labels, whole.name)
    texts = whole.sample(limit, seed)
    check_texts(texts)
    if evade:
        from harness.cli.hub_folders import detector_folder

        plan = _evading(plan, detector_folder(evade), model, whole, texts, evade_fpr, evade_threshold)
    worker = plan.build(model)
    with Run(out, "attack run", attack_config(texts, worker, shard_size, used)) as opened:
        if opened.finished:
            typer.echo("this run is complete already.")
            rows = read_rows(out)
        else:
            work_off = one_process(worker)
            if workers is not None:
                cluster = Cluster(workers, ray_address, gpus_per_worker, used)
                work_off = ray_workers(plan, identity(worker), cluster, opened.log)
            rows, aside = run_attack(texts, work_off, opened, shard_size=shard_size)
            sources = {"dataset": dataset_pointer(dataset, text_column, label_column), "victim": victim_pointer(victim)}
            _finish(opened, plan, model, texts, rows, len(aside), sources)
    print_attack_summary(rows)
    typer.echo(f"run folder: {out}")


def _evading(
    plan: AttackPlan,
    folder: Path,
    victim: Victim,
    split: TextDataset,
    attacked: TextDataset,
    fpr: float,
    threshold: float | None,
) -> AttackPlan:
    """The plan of an attack that passes a fitted detector."""
    from dataclasses import replace
    from functools import partial

    from harness.evaluation.evasion import evasion_facts, evasion_threshold, scoring_function
    from textadv.plan import EvasionPlan

    if threshold is None:
        threshold, facts = evasion_threshold(folder, victim, split, attacked, fpr=fpr, seed=plan.seed)
    else:
        facts = evasion_facts(folder, threshold)
    return replace(plan, evasion=EvasionPlan(partial(scoring_function, folder.resolve()), threshold, facts))


def _finish(
    run: Run,
    plan: AttackPlan,
    victim: Victim,
    texts: TextDataset,
    rows: list[AdversarialRow],
    aside: int,
    sources: dict[str, Any],
) -> None:
    """Close the run, and say what has to be said of its rows."""
    from dataclasses import replace

    from harness.text.adversarial import ROWS_FILE, TIMINGS_FILE
    from harness.text.verification import other_outcomes
    from textadv.engine import ERRORS_FILE

    truncated = victim.count_truncated(texts.texts)
    otherwise = None
    if plan.dtype != "fp32":
        otherwise = other_outcomes(rows, replace(plan, dtype="fp32").load_victim())
    run.finish(
        [ROWS_FILE, TIMINGS_FILE, *([ERRORS_FILE] if aside else [])],
        sources=sources,
        label_names=texts.label_names,
        seeds=[plan.seed],
        texts=len(rows),
        set_aside=aside,
        truncated=truncated,
        other_outcomes_in_fp32=otherwise,
        device_seconds=round(victim.device_seconds, 3),
    )
    if truncated:
        typer.echo(victim.truncation_note(truncated, len(texts)))
    if otherwise is not None:
        typer.echo(f"asked again in fp32, {otherwise} of {len(rows)} rows end otherwise.")
    if aside:
        typer.echo(f"{aside} texts raised an error and were set aside: {run.path(ERRORS_FILE)}")


attack_rows.register(app)
attack_sets.register(app)
