"""What a detection row cannot say if it was measured: rates that no counts give, figures that contradict each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from harness.core.prevalence import precision_at_prevalence
from harness.core.rows import Row
from harness.leaderboard.identity import dig
from harness.leaderboard.problems import LARGEST_COUNT, Problem, count_problems, interval_problems, is_share_of, whole

_RATES = {"1": 0.01, "5": 0.05, "10": 0.10}
# Metrics are compared with what other metrics of the row imply; both were rounded to float64.
_ROUNDING = 1e-9
_BLOCKS = ("attack", "victim", "detector", "sampling", "calibration", "intervals", "comparisons", "versions")


def check_detection(row: Row) -> Iterator[Problem]:
    """What is impossible or odd in one detection row, beyond its schema.

    Args:
        row: A row that `harness.core.rows.read_row` takes.

    Yields:
        A problem each; figures that the row does not know are passed over.
    """
    absurd = count_problems(row)
    if absurd:
        yield from absurd
        return
    for name, estimate in row["metrics"].items():
        yield from interval_problems(f"metrics.{name}", estimate)
    values = {name: estimate["value"] for name, estimate in row["metrics"].items()}
    yield from _counts(row, values)
    yield from _curve(row, values)
    yield from _f1(row, values)
    yield from _held_out(row, values)
    yield from _protocol(row)
    yield from _comparisons(row, values["auc"])
    yield from _failures(row)
    yield from _prevalence(row, values)
    words = row.get("words")
    if words:
        for name, estimate in words["metrics"].items():
            yield from interval_problems(f"words.metrics.{name}", estimate)
        if words["substituted"] > words["words"]:
            yield Problem(f"words: {words['substituted']} of {words['words']} words were substituted.")


def _counts(row: Row, values: Mapping[str, float | None]) -> Iterator[Problem]:
    """Every rate is a whole number of texts."""
    clean, adversarial = row["n_clean"], row["n_adversarial"]
    for name, value in values.items():
        of, number = ("adversarial", adversarial) if "tpr_" in name else ("clean", clean)
        if name.startswith(("realised_fpr", "fpr_at")):
            of, number = "clean", clean
        elif name == "auc":
            of, number = "half pairs of texts", 2 * clean * adversarial
        elif "tpr_" not in name:
            continue
        if not is_share_of(value, number):
            yield Problem(f"metrics.{name}: {value} is no whole number of {number} {of}{' texts' * (name != 'auc')}.")


def _curve(row: Row, values: Mapping[str, float | None]) -> Iterator[Problem]:
    """The oracle's figures are points of one ROC curve."""
    rates = [values[f"tpr_at_fpr_{rate}"] for rate in _RATES]
    yield from _rising("metrics.tpr_at_fpr", rates)
    auc, aupr, high = values["auc"], values["aupr"], values["fpr_at_tpr_95"]
    clean, adversarial = row["n_clean"], row["n_adversarial"]
    for (name, rate), tpr in zip(_RATES.items(), rates, strict=True):
        if tpr is None:
            continue
        # The curve has passed `tpr` at this rate and never falls; the next threshold flags more clean texts than that.
        reached = math.floor(rate * clean + _ROUNDING) / clean
        beyond = reached + 1 / clean
        if auc is not None:
            least, most = tpr * (1 - reached), 1 - (1 - tpr) * beyond / 2
            yield from _within("auc", auc, least, most, f"tpr_at_fpr_{name} {tpr:.6g}")
        if high is not None and (tpr >= 0.95) != (high <= rate + _ROUNDING):
            yield Problem(f"metrics.fpr_at_tpr_95: {high:.6g} contradicts tpr_at_fpr_{name} {tpr:.6g}.")
    if auc is not None and high is not None:
        yield from _within("auc", auc, 0.95 * (1 - high), 1 - 0.05 * high / 2, f"fpr_at_tpr_95 {high:.6g}")
    if aupr is not None:
        # All clean texts before the first adversarial one: Boyd et al., ICML 2012.
        worst = math.fsum(i / (i + clean) for i in range(1, adversarial + 1)) / adversarial
        yield from _within("aupr", aupr, worst, 1.0, f"{adversarial} adversarial of {adversarial + clean} texts")


def _f1(row: Row, values: Mapping[str, float | None]) -> Iterator[Problem]:
    """F1 follows from TPR, FPR and the two numbers of texts."""
    clean, adversarial = row["n_clean"], row["n_adversarial"]
    f1, tpr = values["f1_at_fpr_10"], values["tpr_at_fpr_10"]
    if f1 is not None and tpr is not None:
        flagged = round(tpr * adversarial)
        # F1 = 2 TP / (TP + FP + P) at some whole FP that 10 % allow; the harness keeps the smallest.
        alarms = 2 * flagged / f1 - flagged - adversarial if f1 > 0 else 0.0
        allowed = math.floor(0.10 * clean + _ROUNDING)
        fits = (f1 > 0) == (flagged > 0) and whole(alarms, 1e-6 * clean) and -0.5 < alarms < allowed + 0.5
        if not fits:
            yield Problem(
                f"metrics.f1_at_fpr_10: no threshold with {flagged} of {adversarial} adversarial and at most {allowed} "
                f"of {clean} clean texts flagged has an F1 of {f1:.6g}."
            )
    f1, tpr, fpr = (values[name] for name in ("heldout_f1_10", "heldout_tpr_10", "realised_fpr_10"))
    if f1 is not None and tpr is not None and fpr is not None:
        expected = 2 * tpr * adversarial / (tpr * adversarial + fpr * clean + adversarial)
        if abs(f1 - expected) > _ROUNDING:
            yield Problem(
                f"metrics.heldout_f1_10: it is {f1:.6g}, and TPR, FPR and the numbers of texts give {expected:.6g}."
            )


def _held_out(row: Row, values: Mapping[str, float | None]) -> Iterator[Problem]:
    """Held-out thresholds need texts, and a laxer one flags no fewer."""
    for kind in ("heldout_tpr", "realised_fpr"):
        yield from _rising(f"metrics.{kind}", [values[f"{kind}_{rate}"] for rate in _RATES])
    thresholds = dig(row["protocol"], "calibration", "thresholds")
    held = row["n_calibration"]
    for rate, share in _RATES.items():
        names = [f"heldout_tpr_{rate}", f"realised_fpr_{rate}", *(["heldout_f1_10"] if rate == "10" else [])]
        known = {name for name in names if values[name] is not None}
        if known and len(known) < len(names):
            yield Problem(f"metrics: {', '.join(names)} are of one threshold, and only some of them have a value.")
        if known and (held + 1) * share < 1 - _ROUNDING:
            yield Problem(f"metrics.{names[0]}: {held} held-out texts give no threshold for an FPR of {rate} %.")
        if isinstance(thresholds, Mapping) and bool(known) != (rate in thresholds):
            which = "has a value and no threshold" if known else "has a threshold and no value"
            yield Problem(f"metrics.{names[0]}: it {which} in protocol.calibration.thresholds.")


def _protocol(row: Row) -> Iterator[Problem]:
    """The counts that the row's protocol keeps agree with each other and with the row."""
    protocol = row["protocol"]
    for name in _BLOCKS:
        if not isinstance(protocol.get(name, {}), Mapping):
            yield Problem(f"protocol.{name}: it is not an object.")
    held = _number(protocol, "calibration", "texts")
    if held is not None and held != row["n_calibration"]:
        yield Problem(f"n_calibration: it is {row['n_calibration']}, and protocol.calibration.texts is {held:g}.")
    yield from _attack(row)
    total = _number(protocol, "attack", "texts")
    subset, tested = _number(protocol, "sampling", "subset_rows"), _number(protocol, "sampling", "test_rows")
    dear = _number(protocol, "sampling", "dear_texts")
    bounds = {"protocol.sampling.subset_rows": subset, "protocol.sampling.dear_texts": dear}
    for name in ("n_adversarial", "n_clean"):
        for where, bound in bounds.items():
            if bound is not None and row[name] > bound:
                yield Problem(f"{name}: it is {row[name]}, more than {where}, which is {bound:g}.")
    for name, part, whole_ in (("subset", subset, tested), ("test", tested, total)):
        if part is not None and whole_ is not None and part > whole_:
            yield Problem(f"protocol.sampling.{name}_rows: it is {part:g}, and there are only {whole_:g} rows.")
    trains = dig(protocol, "detector", "needs_adversarial_labels")
    if isinstance(trains, bool) and trains != row.get("trains_on_adversarial_texts", trains):
        yield Problem("trains_on_adversarial_texts: protocol.detector.needs_adversarial_labels says otherwise.")
    sampling = protocol.get("sampling")
    says = isinstance(sampling, Mapping) and "dear_texts" in sampling
    if says and row.get("limited", False) != (dear is not None):
        yield Problem("limited: protocol.sampling.dear_texts says otherwise.")


def _attack(row: Row) -> Iterator[Problem]:
    protocol = row["protocol"]
    parts = {name: _number(protocol, "attack", name) for name in ("success", "failure", "maximized", "skipped")}
    total = _number(protocol, "attack", "texts")
    if total is not None and any(part is not None for part in parts.values()):
        found = sum(part or 0 for part in parts.values())
        if found != total:
            yield Problem(f"protocol.attack: its results sum to {found:g} and not to {total:g} texts.")
        won = (parts["success"] or 0) + (parts["maximized"] or 0)
        if row["n_adversarial"] > won:
            yield Problem(f"n_adversarial: it is {row['n_adversarial']}, and {won:g} attacks succeeded.")


def _comparisons(row: Row, auc: float | None) -> Iterator[Problem]:
    for index, found in enumerate(row.get("comparisons", ())):
        where = f"comparisons[{index}]"
        yield from interval_problems(f"{where}.auc_difference", found["auc_difference"])
        if (found["p"] is None) != (found["p_holm"] is None):
            yield Problem(f"{where}: p and p_holm are known together or not at all.")
        elif found["p"] is not None and found["p_holm"] < found["p"] - _ROUNDING:
            yield Problem(f"{where}.p_holm: {found['p_holm']:.6g} is below p, which is {found['p']:.6g}.")
        if found["reference"] == row["detector"]:
            yield Problem(f"{where}: a detector is not compared with itself.")
        gap = found["auc_difference"]["value"]
        if auc is not None and gap is not None and not -_ROUNDING <= auc - gap <= 1 + _ROUNDING:
            yield Problem(f"{where}: an AUC {gap:+.6g} from {auc:.6g} is none, so it is not that of {auc:.6g}.")


def _failures(row: Row) -> Iterator[Problem]:
    found = row.get("failures")
    if not found:
        return
    failed = _number(row["protocol"], "attack", "failure")
    if failed is not None and found["texts"] > failed:
        yield Problem(f"failures.texts: it is {found['texts']}, and {failed:g} attacks failed.")
    shares = {f"flagged.{rate}": (value, found["texts"]) for rate, value in found["flagged"].items()}
    shares["auc_against_clean"] = (found["auc_against_clean"], 2 * found["texts"] * row["n_clean"])
    for name, (value, number) in shares.items():
        if not is_share_of(value, number):
            yield Problem(f"failures.{name}: {value} is no whole number of {number}.")
    yield from _rising("failures.flagged", [found["flagged"].get(rate) for rate in _RATES])


def _prevalence(row: Row, values: Mapping[str, float | None]) -> Iterator[Problem]:
    for share, precisions in (row.get("prevalence") or {}).items():
        for rate in _RATES:
            name = f"precision_{rate}"
            tpr, fpr = values[f"heldout_tpr_{rate}"], values[f"realised_fpr_{rate}"]
            value = precisions.get(name)
            if value is None or tpr is None or fpr is None:
                if value is not None:
                    yield Problem(f"prevalence.{share}.{name}: it has a value without TPR and FPR.")
                continue
            try:
                expected = float(precision_at_prevalence(tpr, fpr, float(share)))
            except ValueError:
                yield Problem(f"prevalence.{share}: it is not a share from 0 to 1.")
                break
            if math.isnan(expected) or abs(value - expected) > _ROUNDING:
                yield Problem(f"prevalence.{share}.{name}: it is {value:.6g}, and TPR and FPR give {expected:.6g}.")


def _rising(name: str, values: list[float | None]) -> Iterator[Problem]:
    known = {rate: value for rate, value in zip(_RATES, values, strict=True) if value is not None}
    for (low, first), (high, second) in zip(list(known.items())[:-1], list(known.items())[1:], strict=True):
        if second < first - _ROUNDING:
            yield Problem(f"{name}: {first:.6g} at {low} % and {second:.6g} at {high} %; it cannot fall.")


def _within(name: str, value: float, least: float, most: float, because: str) -> Iterator[Problem]:
    if not least - _ROUNDING <= value <= most + _ROUNDING:
        yield Problem(f"metrics.{name}: {value:.6g} is not within {least:.6g} and {most:.6g}, which {because} allows.")


def _number(protocol: Mapping[str, Any], *path: str) -> float | None:
    value = dig(protocol, *path)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(min(max(value, -LARGEST_COUNT), LARGEST_COUNT))
