"""`harness eval`: compare detectors on attacks, and read every layer of an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options

app = options.verb("Compare detectors on attacks, or read every layer of an encoder, in one protocol.")

Attacks = Annotated[list[Path], typer.Option("--attacks", help="Run folders of attacks.")]
ScenarioName = Annotated[
    str,
    typer.Option(
        help="s1 (disjoint sources, 1:1), s2 (paired, unbalanced), or matched (pairs of equal victim confidence)."
    ),
]
Seeds = Annotated[str, typer.Option(help="Sampling seeds, separated by commas.")]
Target = Annotated[
    int | None,
    typer.Option(min=1, help="Adversarial texts aimed at; by default the paper's for the dataset."),
]
Fraction = Annotated[
    float | None,
    typer.Option(min=0, max=0.9, help="Share of rows kept for validation; by default the paper's (0.3; SST-2 0)."),
]


@app.command()
def detect(
    attacks: Annotated[list[Path] | None, typer.Option("--attacks", help="Run folders of attacks.")] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(help="Names, with parameters such as knn:layer=all,k=20, fitted folders, or hub:ORG/NAME."),
    ] = None,
    suite: Annotated[str | None, typer.Option(help="A whole grid instead of --attacks: offline or rde-2022.")] = None,
    data: Annotated[Path | None, typer.Option(help="Of a suite: a folder with a folder a dataset.")] = None,
    artifacts: options.Artifacts = None,
    attack_set: Annotated[
        str | None,
        typer.Option(metavar="SET", help="Of a suite: a released set, or hub:ORG/NAME, that holds attacks of it."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Of a suite: parts of the names of cells.")] = None,
    dear: Annotated[bool, typer.Option(help="Of a suite: whether to run the dear detectors.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Of a suite: print its commands only.")] = False,
    scenario: ScenarioName = "s1",
    seeds: Seeds = "0,1,2",
    leaderboard: Annotated[Path | None, typer.Option(help="A leaderboard folder to add the rows to.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; by default runs/eval-ID.")] = None,
    victim: Annotated[str | None, typer.Option(help="The victim, where the attack does not say.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The dataset, where the attack does not say.")] = None,
    target: Target = None,
    validation_fraction: Fraction = None,
    train_limit: Annotated[
        int | None, typer.Option(min=1, help="Training rows that the victim reads for detectors.")
    ] = None,
    layer: options.Layer = None,
    components: Annotated[int | None, typer.Option(min=1, help="Dimensions RDE keeps.")] = None,
    replicates: Annotated[int, typer.Option(min=1, help="Bootstrap replicates.")] = 1000,
    fit_seed: Annotated[int, typer.Option(min=0, max=options.LARGEST_SEED, help="Seed of the detectors' fits.")] = 0,
    dear_texts: Annotated[
        int, typer.Option(min=2, help="Texts of each class that a detector of over ten forwards scores.")
    ] = 100,
    same_texts: Annotated[
        bool, typer.Option("--same-texts", help="Let the other detectors score only those texts too.")
    ] = False,
    words: Annotated[bool, typer.Option("--words", help="Score word-level evidence too.")] = False,
    transfer: Annotated[
        bool,
        typer.Option("--other-victim", help="--victim may be another than the attacked one: do the texts transfer?"),
    ] = False,
    tune_attack: Annotated[
        Path | None,
        typer.Option("--tune-attacks", help="Another attack whose validation rows tune or train detectors."),
    ] = None,
    language_model: Annotated[str | None, typer.Option(help="A causal LM, for ppl.")] = None,
    masked_lm: Annotated[str | None, typer.Option(help="A masked LM, for mlmd and gradmlmd.")] = None,
    discriminator: Annotated[str | None, typer.Option(help="An ELECTRA discriminator, for rtd-guard.")] = None,
    vectors: Annotated[str | None, typer.Option(help="Word vectors, for fgws.")] = None,
    max_length: options.MaxLength = None,
    dtype: options.Dtype = "fp32",
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
) -> None:
    """Sample clean and adversarial texts, score them, print and keep the figures."""
    from harness.cli.hub_folders import detector_folder
    from harness.cli.tables import print_detectors
    from harness.core.errors import ConfigurationError
    from harness.evaluation.detection import EvaluationSettings
    from harness.evaluation.runs import EvaluationRequest, run_evaluation

    if suite is not None:
        from harness.cli.hub_folders import set_folder
        from harness.cli.suites import SuiteRequest, run_suite

        if attacks:
            raise ConfigurationError("--suite makes its own attacks.", "Leave out --attacks.")
        released = None if attack_set is None else set_folder(attack_set)
        asked = (tuple(only or ()), tuple(detector or ()), dear, dry_run, leaderboard)
        grid = SuiteRequest(suite, out or Path("runs", suite), data, artifacts, released, *asked)
        run_suite(grid, lambda arguments: app(spread(arguments)[1:], standalone_mode=False))
        return
    if not attacks or not detector:
        raise ConfigurationError("there is nothing to evaluate.", "Give --attacks and --detector, or --suite.")
    settings = EvaluationSettings(
        scenario=_scenario(scenario),
        seeds=options.numbers("--seeds", seeds),
        target=target,
        validation_fraction=validation_fraction,
        train_limit=train_limit,
        fit_seed=fit_seed,
        replicates=replicates,
        dear_texts=dear_texts,
        same_texts=same_texts,
        words=words,
    )
    parameters = {
        "layer": options.layer(layer),
        "components": components,
        "language_model": language_model,
        "masked_lm": masked_lm,
        "discriminator": discriminator,
        "vectors": vectors,
    }
    request = EvaluationRequest(
        attacks=attacks,
        detectors=[str(detector_folder(one)) if one.startswith("hub:") else one for one in detector],
        parameters={name: value for name, value in parameters.items() if value is not None},
        settings=settings,
        victim=victim,
        dataset=dataset,
        text_column=text_column,
        label_column=label_column,
        dtype=dtype,
        max_length=max_length,
        transfer=transfer,
        tune_attack=tune_attack,
    )
    outcome = run_evaluation(request, out)
    for table in outcome.tables:
        print_detectors(table.title, table.rows)
        for note in table.notes:
            typer.echo(note)
    typer.echo(f"run folder: {outcome.folder}")
    if leaderboard is not None:
        from harness.leaderboard.board import add

        csv_file, page = add(leaderboard, outcome.rows)
        typer.echo(f"leaderboard: {csv_file}")
        typer.echo(f"page: {page}")


@app.command()
def sample(
    attacks: Attacks,
    scenario: ScenarioName = "s1",
    seeds: Seeds = "0,1,2",
    target: Target = None,
    validation_fraction: Fraction = None,
) -> None:
    """Print how many texts the sampling protocol draws; no victim is needed."""
    from harness.evaluation.sampling import draw_sample, published_protocol
    from harness.text.adversarial import read_rows

    for folder in attacks:
        rows = read_rows(folder)
        published = published_protocol(rows[0].dataset)
        for seed in options.numbers("--seeds", seeds):
            drawn = draw_sample(
                [row.result for row in rows],
                _scenario(scenario),
                seed,
                target=published.target if target is None else target,
                validation_fraction=(
                    published.validation_fraction if validation_fraction is None else validation_fraction
                ),
            )
            typer.echo(
                f"{folder} {scenario} seed {seed}: {len(drawn.validation)} validation, {len(drawn.test)} test, "
                f"subset {len(drawn.subset)}, {len(drawn.adversarial)} adversarial, {len(drawn.clean)} clean"
            )


@app.command()
def ssl(
    encoder: Annotated[
        str,
        typer.Option(help="A run folder of `harness ssl train`, timm:NAME, a hub id, or a folder of a model."),
    ],
    data: Annotated[str, typer.Option("--data", help="A dataset of images, or of texts for a text encoder.")],
    layers: Annotated[str, typer.Option(help="all, or numbers such as 1,6,12 or -1 (the last).")] = "all",
    protocol: Annotated[str, typer.Option(help="Among knn, linear and fewshot, separated by commas.")] = (
        "knn,linear,fewshot"
    ),
    poolings: Annotated[
        str | None, typer.Option(help="Among cls, avg and cls-last4; by default all that the encoder has.")
    ] = None,
    transfer: Annotated[
        list[str] | None, typer.Option("--transfer", help="Further datasets to read the same encoder on.")
    ] = None,
    train_limit: Annotated[int | None, typer.Option(min=2, help="Training items; by default all.")] = None,
    test_limit: Annotated[int | None, typer.Option(min=1, help="Test items; by default all.")] = None,
    seed: options.Seed = 0,
    image_size: Annotated[int | None, typer.Option(min=1, help="Pixels a side; by default the encoder's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Items in one forward.")] = 128,
    dtype: options.Dtype = "fp32",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default cuda where there is one.")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Random weights by --seed, for timm:NAME.")] = False,
    leaderboard: Annotated[Path | None, typer.Option(help="A leaderboard folder to add the rows to.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; by default runs/eval-ssl-ID.")] = None,
    probe_epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the linear probes.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens a text may have.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images, where it is not `image`.")] = None,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
) -> None:
    """Read every layer with k-NN, linear probes and few-shot, from one pass over the data."""
    from harness.cli.layer_inputs import DataRequest, load_layer_data, open_layer_reader
    from harness.cli.tables import print_layers
    from harness.core.errors import ConfigurationError
    from sdssl.evaluate import ReadingSettings, resolve_protocols
    from sdssl.evaluation_run import run_evaluation
    from sdssl.layer_reading import resolve_layers, resolve_poolings
    from sdssl.probes import ProbeSettings

    protocols = resolve_protocols(protocol)
    specs = [data, *(transfer or [])]
    if len(set(specs)) < len(specs):
        raise ConfigurationError("a dataset is named twice.", "Name each dataset once.")
    request = DataRequest(train_limit, test_limit, seed, image_column, text_column, label_column)
    datasets = [load_layer_data(spec, request) for spec in specs]
    reader = open_layer_reader(
        encoder,
        datasets[0].unit,
        image_size=image_size,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        untrained=untrained,
        seed=seed,
        max_length=max_length,
    )
    probe = ProbeSettings(seed=seed) if probe_epochs is None else ProbeSettings(seed=seed, epochs=probe_epochs)
    settings = ReadingSettings(
        layers=tuple(resolve_layers(layers, reader.num_layers, reader.name)),
        protocols=protocols,
        poolings=tuple(resolve_poolings(poolings, reader)),
        probe=probe,
        seed=seed,
    )
    found = run_evaluation(reader, datasets, settings, out, device=str(reader.device))
    for row, notes in zip(found.rows, found.notes, strict=True):
        print_layers(row)
        for note in notes:
            typer.echo(note)
    typer.echo(f"run folder: {found.folder}")
    if leaderboard is not None:
        from harness.leaderboard.board import add

        for path in add(leaderboard, found.rows):
            typer.echo(f"leaderboard: {path}")


# Which options of a verb take several values.
_SEVERAL = {
    "eval": ("--attacks", "--detector", "--only", "--transfer"),
    "leaderboard": ("--only", "--where"),
}


def spread(arguments: list[str]) -> list[str]:
    """Let list options take several values: `--detector rde msp` is `--detector rde --detector msp`."""
    several = _SEVERAL.get(arguments[0], ()) if arguments else ()
    if not several:
        return arguments
    spreading = ""
    found: list[str] = []
    for argument in arguments:
        if argument.startswith("-"):
            spreading = argument if argument in several else ""
        elif spreading and found[-1] != spreading:
            found.append(spreading)
        found.append(argument)
    return found


def _scenario(text: str):  # type: ignore[no-untyped-def]
    from harness.core.errors import UnknownNameError

    if text not in ("s1", "s2", "matched"):
        raise UnknownNameError("scenario", text, ("s1", "s2", "matched"))
    return text
