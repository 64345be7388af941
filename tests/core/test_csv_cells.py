"""Cells that no spreadsheet runs, and that come back as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.csv_cells import safe_cell, unsafe_cell


@pytest.mark.parametrize("mark", ["=", "+", "-", "@", "\t", "\0", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_formulas_are_escaped(mark: str) -> None:
    assert safe_cell(f"{mark}1+1") == f"'{mark}1+1"
    assert safe_cell(f"1{mark}") == f"1{mark}"


@given(st.text() | st.text("'=+-@\t\r\n\0,\" a\uff1d\uff20"))
def test_cells_round_trip(text: str) -> None:
    cell = safe_cell(text)
    assert unsafe_cell(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\0", "\r", "\n", "\uff1d", "\uff20"))
