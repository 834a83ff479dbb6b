"""docs/library.md does what it says."""

import re

import pytest

from tests.commands import ROOT

TOUR = ROOT / "docs" / "library.md"


def test_the_tour_runs_from_top_to_bottom_and_the_layer_beats_a_matrix(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", TOUR.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert names["errors"]["linear"] > 0.5
    assert names["errors"]["neurocoder"] < 0.1
    assert (tmp_path / "attention.png").stat().st_size > 1000
