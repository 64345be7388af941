"""Detectors as a command line names them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError, UnknownNameError
from harness.detectors.registry import DETECTORS
from harness.detectors.specs import canonical_spec, constructor_parameters, parse_spec, spec_title

WORDS = st.text("abcxyzABC-_/.é ", min_size=1).map(str.strip).filter(bool)
VALUES = st.one_of(st.integers(-99, 99), st.floats(-1e9, 1e9), st.booleans(), st.none(), WORDS)


@st.composite
def written(draw):
    """A spec as somebody may write it, with what it means."""
    name = draw(st.sampled_from(DETECTORS.names()))
    known = sorted(constructor_parameters(name))
    keys = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    said = {key: draw(VALUES) for key in keys}
    parts = []
    for key, value in said.items():
        text = value if isinstance(value, str) else json.dumps(value)
        space = draw(st.sampled_from(["", " "]))
        parts.append(f"{space}{key}{space}={space}{text}{space}")
    return name, said, ":".join(filter(None, (name, ",".join(parts))))


@given(written())
def test_the_canonical_spec_means_the_same_and_is_its_own(case):
    name, said, spec = case
    canonical = canonical_spec(spec)
    assert parse_spec(spec) == parse_spec(canonical) == (name, said)
    assert canonical_spec(canonical) == canonical
    keys = [part.partition("=")[0] for part in canonical.partition(":")[2].split(",") if part]
    assert keys == sorted(said)


def test_order_and_spaces_say_nothing():
    assert canonical_spec("knn:layer=all,k=20") == canonical_spec("knn: k = 20, layer = all") == "knn:k=20,layer=all"
    assert canonical_spec("msp") == "msp"
    assert parse_spec("knn:layer=all,k=20") == ("knn", {"layer": "all", "k": 20})
    assert parse_spec("sharpness:rise=false,radius=0.5") == ("sharpness", {"rise": False, "radius": 0.5})


def test_text_that_reads_like_a_number_keeps_its_quotes():
    for text in ("5", "true", "null", "", " a", '"a"', "1e5"):
        spec = f"fgws:vectors={json.dumps(text)}"
        assert parse_spec(spec) == parse_spec(canonical_spec(spec)) == ("fgws", {"vectors": text})
    assert canonical_spec('fgws:vectors="5"') == 'fgws:vectors="5"'
    assert canonical_spec('fgws:vectors="./5"') == "fgws:vectors=./5"


def test_titles_say_what_is_not_the_default():
    assert spec_title("knn:layer=all,k=20") == "KNN (k 20, layer all)"
    assert spec_title("msp") == "MSP"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("knn:", "'knn:' is not how"),
        ("knn:k", "is not how a detector is named"),
        ("knn:k=", "is not how a detector is named"),
        ("knn:=3", "is not how a detector is named"),
        ("knn:k=1,k=2", "is not how a detector is named"),
        ("knn:k=1,", "is not how a detector is named"),
        ("knn:neighbours=3", "'knn' takes no neighbours"),
        ("msp:layer=1", "'msp' takes no layer"),
    ],
)
def test_what_is_written_otherwise_is_refused(spec, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_spec(spec)


def test_an_unknown_name_is_named():
    with pytest.raises(UnknownNameError, match="knnn"):
        canonical_spec("knnn:k=1")
