"""Files that are replaced whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from agents.files import write_json_atomically


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "config.json"
    write_json_atomically(path, {"lr": 1e-4})
    write_json_atomically(path, {"lr": 2e-4, "env": "ALE/Pong-v5"})
    assert json.loads(path.read_text()) == {"lr": 2e-4, "env": "ALE/Pong-v5"}

    with pytest.raises(TypeError):
        write_json_atomically(path, {"lr": Path()})
    assert json.loads(path.read_text())["lr"] == 2e-4

    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_json_atomically(tmp_path / "folder", {})
    assert sorted(os.listdir(tmp_path)) == ["config.json", "folder"]
