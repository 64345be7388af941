from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError, DataError, MissingFileError
from harness.core.rows import finish_row, write_row
from harness.leaderboard import identity
from harness.leaderboard.board import build
from harness.leaderboard.detection_checks import check_detection
from harness.leaderboard.ssl_checks import check_ssl
from harness.leaderboard.verification import Verification, verify

ROOT = Path(__file__).resolve().parents[2]
# Names that the checks look for in a protocol.
_KEYS = {"attack", "victim", "detector", "sampling", "calibration", "versions", "encoder", "data", "knn", "fewshot"}
_KEYS |= {"linear", "texts", "success", "thresholds", "dear_texts", "subset_rows", "needs_adversarial_labels", "k"}
_KEYS |= {"num_layers", "draws", "shots", "train_limit", "chosen", "cka", "torch", "hash"}
MakeRow = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def sound(measured_row: MakeRow) -> dict[str, Any]:
    """A row whose every number was measured."""
    draw = np.random.default_rng(0)
    clean, adversarial, held = draw.normal(0, 1, 60), draw.normal(1, 1, 50), draw.normal(0, 1, 120)
    return measured_row(clean.round(1), adversarial.round(1), held.round(1), draw.normal(0.5, 1, 7).round(1))


def ssl_row(**changes: Any) -> dict[str, Any]:
    def accuracy(value: float) -> dict[str, float]:
        return {"value": value, "low": value / 2, "high": min(1, 2 * value)}

    readings = [
        {"protocol": protocol, "layer": layer, "pooling": "cls", "top1": accuracy(share / 200)}
        for protocol, share in (("knn-20", 61), ("linear", 70), ("fewshot-5", 33.25))
        for layer in (1, 2)
    ]
    layer = {"positive_alignment": 7.0, "positive_alignment_l2": 0.5, "negative_alignment": 9.0}
    layer |= {"negative_alignment_l2": 1.5, "uniformity": -1.0, "rankme": 6.5, "feature_std": 0.5}
    row = {
        "board": "ssl",
        "encoder": "run-a",
        "objective": "simclr",
        "self_distill": False,
        "arch": "vit",
        "train_dataset": "cifar10",
        "eval_dataset": "digits",
        "seed": 0,
        "n_train": 1000,
        "n_test": 200,
        "readings": readings,
        "layers": [{"layer": number, "flops": 1000 * number, **layer} for number in (1, 2)],
        "cost": {"forward_ms_per_item": 1.0, "reading_seconds": 2.0},
        "run": "read-a",
        "protocol": {
            "encoder": {"num_layers": 2},
            "data": {"train_limit": 1000},
            "knn": {"k": [20]},
            "fewshot": {"shots": [5], "draws": 20},
        },
    }
    return finish_row({**row, **changes})


def put(row: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The row with one place changed, finished again as one would who wants it to look sound."""
    changed = copy.deepcopy(row)
    changed.pop("id")
    *way, last = path.split("/")
    place = changed
    for key in way:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    return finish_row(changed)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    row = json.loads(path.read_text())
    change(row)
    path.write_text(json.dumps(row))


def told(found: Verification) -> list[tuple[bool, str, str]]:
    return [(one.fatal, one.files[0].name, one.message) for one in found.findings]


# One row alone.


def test_measured_rows_hold(sound: dict[str, Any]) -> None:
    assert list(check_detection(sound)) == []
    assert list(check_ssl(ssl_row())) == []


scores = st.lists(st.integers(0, 12), min_size=1, max_size=40)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scores, scores, st.lists(st.integers(0, 12), max_size=120), st.lists(st.integers(0, 12), max_size=5))
def test_whatever_is_measured_holds(
    measured_row: MakeRow, clean: list[int], adversarial: list[int], held: list[int], failures: list[int]
) -> None:
    assert list(check_detection(measured_row(clean, adversarial, held, failures))) == []


def test_a_detector_that_flags_some_clean_texts_first_holds(measured_row: MakeRow) -> None:
    # All of its false alarms come before any hit: the AUC is the lowest that its TPR at 10 % allows.
    row = measured_row([2.0] * 6 + [0.0] * 54, [1.0] * 50)
    assert (row["metrics"]["tpr_at_fpr_10"]["value"], row["metrics"]["auc"]["value"]) == (1.0, 0.9)
    assert list(check_detection(row)) == []


IMPOSSIBLE = {
    "a TPR that no count gives": ("metrics/tpr_at_fpr_10/value", 0.505, "no whole number of 50 adversarial texts"),
    "an FPR that no count gives": ("metrics/realised_fpr_10/value", 0.051, "no whole number of 60 clean texts"),
    "an AUC that no pairs give": ("metrics/auc/value", 0.70001, "no whole number of 6000 half pairs"),
    "an AUC below its curve": ("metrics/auc/value", 0.2, "0.2 is not within"),
    "an AUC above its curve": ("metrics/auc/value", 1.0, "1 is not within"),
    "an AUPR that no order gives": ("metrics/aupr/value", 0.05, "50 adversarial of 110 texts allows"),
    "an F1 that no threshold gives": ("metrics/f1_at_fpr_10/value", 0.51, "at most 6 of 60 clean texts flagged"),
    "a perfect F1": ("metrics/f1_at_fpr_10/value", 1.0, "no threshold with"),
    "an F1 that is hardly any": ("metrics/f1_at_fpr_10/value", 5e-324, "no threshold with"),
    "an F1 of nothing": ("metrics/f1_at_fpr_10/value", 0.0, "no threshold with"),
    "another held-out F1": ("metrics/heldout_f1_10/value", 0.9, "the numbers of texts give"),
    "a TPR that falls": ("metrics/tpr_at_fpr_1/value", 1.0, "it cannot fall"),
    "a held-out TPR that falls": ("metrics/heldout_tpr_1/value", 1.0, "it cannot fall"),
    "an FPR at 95 % that the TPRs forbid": ("metrics/fpr_at_tpr_95/value", 0.0, "contradicts tpr_at_fpr"),
    "an interval that ends before it begins": (
        "metrics/aupr",
        {"value": 0.7, "low": 0.8, "high": 0.6},
        "before it begins",
    ),
    "half an interval": ("metrics/aupr/low", None, "two ends or none"),
    "an interval of nothing": ("metrics/heldout_tpr_5/value", None, "only some of them have a value"),
    "other counts of results": ("protocol/attack/success", 51, "sum to 118 and not to 117"),
    "more texts than attacks succeeded": ("protocol/attack/success", 40, "40 attacks succeeded"),
    "more texts than the subset": ("protocol/sampling/subset_rows", 49, "more than protocol.sampling.subset_rows"),
    "more test rows than texts": ("protocol/sampling/test_rows", 200, "there are only 117 rows"),
    "another number of held-out texts": ("n_calibration", 119, "protocol.calibration.texts is 120"),
    "too few held-out texts": ("n_calibration", 8, "8 held-out texts give no threshold for an FPR of 10 %"),
    "a metric without threshold": ("protocol/calibration/thresholds", {}, "has a value and no threshold"),
    "a correction that helps": ("comparisons/0/p_holm", 0.01, "0.01 is below p"),
    "half a test": ("comparisons/0/p", None, "known together or not at all"),
    "a comparison with itself": ("comparisons/0/reference", "rde", "not compared with itself"),
    "a difference from an AUC above 1": ("comparisons/0/auc_difference/value", -0.9, "so it is not that"),
    "more failures than attacks failed": ("failures/texts", 8, "7 attacks failed"),
    "a share of failures that no count gives": ("failures/flagged/10", 0.5, "no whole number of 7"),
    "another precision": ("prevalence/0.01/precision_10", 0.5, "TPR and FPR give"),
    "a prevalence that is none": ("prevalence", {"many": {"precision_1": 0.5}}, "not a share from 0 to 1"),
    "a class that is hidden": ("protocol/detector/needs_adversarial_labels", True, "says otherwise"),
    "a small sample that is hidden": ("protocol/sampling/dear_texts", 100, "limited: "),
    "a protocol that is none": ("protocol/sampling", 5, "protocol.sampling: it is not an object"),
    "texts without end": ("n_adversarial", 10**400, "nobody scored more than"),
    "failures without end": ("failures/texts", 10**400, "7 attacks failed"),
    "words out of nothing": (
        "words",
        {"metrics": {}, "texts": 3, "words": 5, "substituted": 6},
        "6 of 5 words were substituted",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_is_told(sound: dict[str, Any], name: str) -> None:
    path, value, expected = IMPOSSIBLE[name]
    found = [problem.message for problem in check_detection(put(sound, path, value)) if problem.fatal]
    assert [message for message in found if expected in message], found


def test_a_value_outside_its_bootstrap_interval_is_odd_and_no_fault(sound: dict[str, Any]) -> None:
    value = sound["metrics"]["tpr_at_fpr_1"]["value"]
    row = put(sound, "metrics/tpr_at_fpr_1", {"value": value, "low": 0.9, "high": 1.0})
    [problem] = check_detection(row)
    assert not problem.fatal
    assert "outside its interval" in problem.message


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("readings/0/top1/value", 0.3051, "no whole number of 200 answers"),
        ("readings/4/top1/value", 0.16620, "no whole number of 4000 answers"),
        ("readings/0/protocol", "knn-30", "not among those of protocol.knn"),
        ("readings/1/layer", 3, "layer 3 of an encoder of 2 layers"),
        ("layers/1/flops", 10, "up to layer 2 it takes fewer operations"),
        ("layers/0/uniformity", 0.5, "0.5 is not within -8 and 0"),
        ("layers/0/negative_alignment_l2", 4.5, "4.5 is not within 0 and 4"),
        ("n_test", 10**12, "nobody scored more than"),
        ("n_train", 1001, "more than protocol.data.train_limit"),
        ("protocol/encoder", [], "protocol.encoder: it is not an object"),
    ],
)
def test_what_no_encoder_gives_is_told(path: str, value: Any, expected: str) -> None:
    found = [problem.message for problem in check_ssl(put(ssl_row(), path, value))]
    assert [message for message in found if expected in message], found


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**20)
    | st.sampled_from([10**400, -(10**400)])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(_KEYS)), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted(_KEYS)), _JSON, max_size=6), st.booleans())
def test_no_protocol_stops_the_checks(sound: dict[str, Any], protocol: dict[str, Any], vision: bool) -> None:
    row = ssl_row() if vision else sound
    changed = {**row, "protocol": protocol}
    list((check_ssl if vision else check_detection)(changed))
    assert isinstance(identity.sample(changed), str)
    assert set(identity.settings(changed)) <= set(protocol)


# A folder.


@pytest.fixture
def board(tmp_path: Path, sound: dict[str, Any]) -> Path:
    """A leaderboard of three detection rows and one SSL row, built."""
    folder = tmp_path / "board"
    for seed in (0, 1):
        write_row(folder, put(sound, "seed", seed))
    write_row(folder, put(put(sound, "detector", "msp"), "comparisons", []))
    write_row(folder, ssl_row())
    build(folder)
    return folder


def one_row(board: Path, kind: str = "detection") -> Path:
    return min((board / "results" / kind).glob("*.json"))


def test_a_sound_leaderboard_has_no_findings_and_is_left_alone(board: Path) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in board.rglob("*") if path.is_file()}
    found = verify(board)
    assert (found.rows, found.findings) == (4, ())
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in board.rglob("*") if path.is_file()} == before


def test_a_row_edited_by_hand_is_told(board: Path) -> None:
    path = one_row(board)
    rewrite(path, lambda row: row["metrics"]["auc"].update(value=0.99))
    [(fatal, name, message)] = told(verify(board))
    assert (fatal, name) == (True, path.name)
    assert "so it was changed after it was written" in message


def test_a_row_under_another_name_is_told(board: Path) -> None:
    path = one_row(board).rename(one_row(board).with_name("0123456789abcdef.json"))
    [(_, name, message)] = told(verify(board))
    assert name == path.name
    assert "the content belongs to" in message


def test_a_row_of_a_newer_version_is_told_in_one_sentence(board: Path) -> None:
    path = one_row(board)
    rewrite(path, lambda row: row.update(schema=2, surprise={}))
    [(_, name, message)] = told(verify(board))
    assert name == path.name
    assert message == "was made by a newer version: its schema is 2, and this one knows 1."
    with pytest.raises(DataError, match=r"was made by a newer version.*schema is 2") as caught:
        build(board)
    assert caught.value.hint == "Update palimpsest."


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'{"schema": NaN}', b'{"schema": true}'])
def test_a_file_that_is_no_row_is_told(board: Path, content: bytes) -> None:
    path = one_row(board)
    path.write_bytes(content)
    [(fatal, name, message)] = told(verify(board))
    assert (fatal, name) == (True, path.name)
    assert "not a sound result row" in message


def test_a_row_in_the_wrong_place_is_told(board: Path) -> None:
    (board / "results" / "vision").mkdir()
    strange = [board / "results" / "vision" / "a.json", board / "results" / "b.json", board / "results/ssl/notes.txt"]
    for path in strange:
        path.write_text("{}")
    (board / "results" / "ssl" / ".gitkeep").touch()
    link = board / "results" / "ssl" / "0123456789abcdef.json"
    link.symlink_to(one_row(board, "ssl"))
    moved = one_row(board)
    moved.rename(board / "elsewhere.json")
    moved.symlink_to(board / "elsewhere.json")
    found = verify(board)
    assert {one.files[0] for one in found.faults} == {*strange, link, moved}
    assert found.warnings == ()


def test_what_a_killed_writer_left_is_a_warning(board: Path) -> None:
    left = board / "results" / "ssl" / ".0123456789abcdef.json.0f.staged"
    left.write_text("{")
    [(fatal, name, message)] = told(verify(board))
    assert (fatal, name) == (False, left.name)
    assert "killed" in message


@pytest.mark.parametrize("name", ["detection.csv", "ssl.csv", "index.html"])
def test_generated_files_that_are_not_what_the_rows_give_are_told(board: Path, name: str) -> None:
    path = board / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    [(fatal, file, message)] = told(verify(board))
    assert (fatal, file) == (True, name)
    assert f"it is cut off after {len(whole) - 20:,} of {len(whole):,} bytes" in message
    lines = whole.split(b"\n")
    lines[1] = lines[1].replace(b"e", b"f", 1)
    path.write_bytes(b"\n".join(lines))
    assert "line 2 differs" in verify(board).findings[0].message
    path.unlink()
    assert "it is missing" in verify(board).findings[0].message
    build(board)
    assert path.read_bytes() == whole
    assert verify(board).findings == ()


def test_two_results_of_one_experiment_are_told(board: Path, sound: dict[str, Any]) -> None:
    low = put(
        sound, "metrics/aupr", {key: sound["metrics"]["aupr"]["value"] - 0.001 for key in ("value", "low", "high")}
    )
    write_row(board, low)
    build(board)
    [(fatal, _, message)] = told(verify(board))
    assert fatal
    assert "names, seed and protocol are those of" in message


def test_an_experiment_measured_twice_is_a_warning(board: Path, sound: dict[str, Any]) -> None:
    again = copy.deepcopy(sound)
    again["protocol"]["calibration"]["thresholds"]["10"] += 1e-12
    again.pop("id")
    write_row(board, again)
    build(board)
    [(fatal, _, message)] = told(verify(board))
    assert not fatal
    assert "the same experiment with other results" in message


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("protocol/versions/torch", "2.14.1", "rows of torch 2.13 and 2.14 are compared"),
        ("protocol/versions/palimpsest", "1.0.0", "rows of palimpsest 0.1 and 1.0 are compared"),
        ("protocol/versions/torch", "2.13.9", None),
        ("protocol/victim/hash", "w", "victims of 2 different weights have one name"),
    ],
)
def test_rows_of_one_table_that_were_not_made_alike_are_a_warning(
    board: Path, sound: dict[str, Any], path: str, value: str, expected: str | None
) -> None:
    odd = write_row(board, put(put(sound, "seed", 2), path, value))
    # Another dataset is another table.
    write_row(board, put(put(sound, "dataset", "mr"), path, value))
    build(board)
    found = told(verify(board))
    assert [(fatal, name) for fatal, name, _ in found] == [(False, odd.name)] * bool(expected)
    assert [message.split(": ")[1] for *_, message in found] == ([f"{expected}."] if expected else [])


def test_a_difference_is_that_of_the_two_aucs(board: Path, sound: dict[str, Any]) -> None:
    assert verify(board).findings == ()
    path = write_row(board, put(put(sound, "seed", 1), "comparisons/0/auc_difference/value", 0.01))
    write_row(board, put(put(put(sound, "detector", "msp"), "comparisons", []), "seed", 1))
    one_and_only = [one for one in verify(board).faults if one.message.startswith("comparisons: its AUC is +0 from")]
    assert [one.files for one in one_and_only] == [(path,)]


def test_only_what_concerns_some_rows(board: Path, sound: dict[str, Any], tmp_path: Path) -> None:
    bad = write_row(board, put(put(sound, "seed", 7), "n_calibration", 119))
    fine = one_row(board, "ssl")
    assert verify(board, [fine]).findings == ()
    assert {one.files[0] for one in verify(board, [bad, fine]).faults} == {bad}
    # A row that is not there yet is checked against those that are.
    low = put(
        sound, "metrics/aupr", {key: sound["metrics"]["aupr"]["value"] - 0.001 for key in ("value", "low", "high")}
    )
    outside = write_row(tmp_path / "elsewhere", low)
    found = verify(board, [outside])
    assert found.rows == 1
    assert "names, seed and protocol are those of" in found.faults[0].message
    with pytest.raises(MissingFileError, match=r"there is no file .*nowhere"):
        verify(board, [board / "nowhere.json"])


def test_a_folder_that_is_no_leaderboard(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is no leaderboard"):
        verify(tmp_path)


# git.


@pytest.fixture
def checkout(board: Path) -> Callable[..., None]:
    """The board's folder in a git checkout of its own; commits all of it, and runs git in it."""
    quiet = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments: str) -> None:
        names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *names, *arguments], cwd=board.parent, env=quiet, check=True, capture_output=True)

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "rows")
    return git


def test_rows_since_a_revision(board: Path, sound: dict[str, Any], checkout: Callable[..., None]) -> None:
    assert (verify(board, since="HEAD").rows, verify(board, since="HEAD").findings) == (0, ())
    write_row(board, put(sound, "seed", 5))
    assert (verify(board, since="HEAD").rows, verify(board, since="HEAD").findings) == (1, ())
    checkout("add", "--all")
    checkout("commit", "--quiet", "--message", "one more")
    assert verify(board, since="HEAD").rows == 0
    assert verify(board, since="HEAD~1").rows == 1
    gone, changed = sorted((board / "results" / "detection").glob("*.json"))[:2]
    gone.unlink()
    rewrite(changed, lambda row: row["cost"].update(ms_per_text=0.001))
    found = verify(board, since="HEAD")
    assert [(one.fatal, one.files[0].name, one.message) for one in found.findings] == [
        (True, changed.name, "it was changed since HEAD, and rows never are."),
        (False, gone.name, "it was taken away since HEAD."),
    ]


@pytest.mark.parametrize("revision", ["nonsense", "--output=x", ""])
def test_a_revision_that_git_does_not_know(board: Path, checkout: Callable[..., None], revision: str) -> None:
    with pytest.raises(ConfigurationError, match="git knows no revision"):
        verify(board, since=revision)


def test_a_folder_without_git(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(board.parent))
    with pytest.raises(ConfigurationError, match="is in no git checkout"):
        verify(board, since="HEAD")


# What is committed here.


@pytest.mark.skipif(not (ROOT / "leaderboards" / "results").is_dir(), reason="this is no checkout")
def test_the_committed_leaderboard_holds() -> None:
    found = verify(ROOT / "leaderboards")
    assert found.rows >= 2950
    assert [f"{one.files[0]}: {one.message}" for one in found.faults] == []
