"""The table of an experiment whose runs have no results."""

from launch.results.experiment import conclude
from tests.commands import rows_of


def test_an_experiment_of_which_every_run_failed_has_a_table_without_numbers(tmp_path, capsys):
    for seed in (1, 2):
        run = tmp_path / f"mlp-sgd-seed{seed}"
        run.mkdir()
        (run / "config.json").write_text('{"label": "mlp-sgd"}')
        (run / "failed.json").write_text('{"error": "the loss became nan"}')
    conclude(tmp_path)
    *_, row, last = capsys.readouterr().out.splitlines()
    assert row.split() == ["mlp-sgd", "-", "0", "2"]
    assert last == "failed, and in no mean: mlp-sgd-seed1, mlp-sgd-seed2"
    assert rows_of(tmp_path / "summary.csv") == []
    assert not (tmp_path / "accuracy.csv").exists() and not (tmp_path / "curves.png").exists()
