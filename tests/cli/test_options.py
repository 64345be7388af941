"""How common options are read."""

import pytest

from harness.cli.options import layer
from harness.core.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "read"), [(None, None), ("0", 0), ("12", 12), ("-2", -2), ("last", -1), ("all", "all")]
)
def test_a_layer_is_a_number_or_last_or_all(text, read):
    assert layer(text) == read


@pytest.mark.parametrize("text", ["", "first", "All", "1.5", "--1", "-", "\u00b2", "1,2", "+1"])
def test_what_is_no_layer_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"--layer .* is no layer"):
        layer(text)
