"""Every count of the reconstructed Table 7, and the claims of the verdicts about the counts."""

import os
import subprocess
import sys

import pytest

from neurocoder.parameter_counts import ROWS, VERDICTS, Row
from tests.commands import ROOT

# Our counts, and the further parameters that the released code registers and never calls, in the order of the table.
COUNTS = {
    "MNIST linear": [(7_840, 0)],
    "MNIST Neurocoder": [(7_322, 0), (7_385, 0), (10_400, 1_600)],
    "CIFAR MLP": [(1_718_839, 0)],
    "CIFAR MLP, MOE": [(15_356_350, 0)],
    "CIFAR MLP, NSM": [(17_222_733, 3_634_779)],
    "CIFAR MLP, Neurocoder": [(1_925_204, 0), (1_809_372, 12_032)],
    "CIFAR LeNet": [(2_148_955, 0), (2_155_625, 0)],
    "CIFAR LeNet, MOE": [(17_584_046, 0)],
    "CIFAR LeNet, NSM": [(21_051_709, 4_311_119)],
    "CIFAR LeNet, Neurocoder": [(2_309_004, 0)],
    "CIFAR DenseNet": [(7_032_247, 0)],
    "CIFAR DenseNet, MOE": [(20_476_352, 0)],
    "CIFAR DenseNet, NSM": [(10_189_966, 0)],
    "CIFAR DenseNet, Neurocoder": [(7_303_608, 0), (7_404_588, 54_896)],
    "Polynomials GRU": [(3_489, 0)],
    "Polynomials HyperNet": [(3_529, 0)],
    "Polynomials FiLM": [(3_555, 0)],
    "Polynomials Neurocoder, J=1": [(3_600, 0)],
    "Polynomials Neurocoder, J=5": [(2_062, 88)],
    "Atari LSTM, 6 actions": [(3_249_639, 0)],
    "Atari LSTM, 9 actions": [(3_251_178, 0)],
    "Atari LSTM, 18 actions": [(3_255_795, 0)],
    "Atari HyperNet, 6 actions": [(3_482_151, 0)],
    "Atari HyperNet, 9 actions": [(3_583_530, 0)],
    "Atari HyperNet, 18 actions": [(3_887_667, 0)],
    "Atari Neurocoder, 6 actions": [(3_363_207, 0)],
    "Atari Neurocoder, 9 actions": [(3_364_995, 0), (3_478_148, 0)],
    "Atari Neurocoder, 18 actions": [(3_370_359, 0)],
    "Multi-algorithm NTM": [(307_760, 0)],
    "Multi-algorithm NTM, NSM": [(263_778, 0)],
    "Multi-algorithm NTM, FiLM": [(253_838, 0)],
    "Multi-algorithm NTM, Neurocoder": [(255_012, 0)],
    "Split MNIST MLP": [(328_194, 0), (330_250, 0)],
    "Split MNIST NSM": [(1_650_269, 645_651)],
    "Split MNIST Neurocoder": [(348_083, 0), (563_319, 0)],
    "Split MNIST MLP, released log": [(570_402, 0)],
    "Split MNIST Neurocoder, released log": [(423_539, 0)],
    "Split CIFAR-10 ResNet": [(12_690_514, 0)],
    "Split CIFAR-100 ResNet": [(12_692_017, 0)],
    "Split CIFAR-10 Neurocoder": [(12_574_938, 0)],
    "Split CIFAR-100 Neurocoder": [(12_575_271, 0)],
}
# The paper's Table 7, and the released logs of Split MNIST.
PUBLISHED = {
    "MNIST": "7.8K 7.3K",
    "CIFAR MLP": "1.7M 15.4M 21.2M 1.9M",
    "CIFAR LeNet": "2.1M 12.3M 27.1M 2.3M",
    "CIFAR DenseNet": "7.0M 20.5M 16.7M 7.3M",
    "Polynomials": "3.4K 3.5K 3.6K 3.6K 2.1K",
    "Atari LSTM": "3.2M 3.2M 3.2M",
    "Atari HyperNet": "3.6M 3.6M 3.6M",
    "Atari Neurocoder": "3.3M 3.3M 3.3M",
    "Multi-algorithm": "308K 264K 254K 255K",
    "Split MNIST": "328K 2.3M 348K 570,402 423,539",
    "Split CIFAR": "12.6M 12.6M 12.6M 12.6M",
}
ids = [f"{row.name}, {row.verdict}" for row in ROWS]


def expected(row: Row) -> tuple[int, int]:
    """The two counts of a row. Rows with the same name come in the order of the table."""
    same = [other for other in ROWS if other.name == row.name]
    return COUNTS[row.name][same.index(row)]


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_a_network_has_the_parameters_that_were_worked_out_for_it(row):
    assert (row.count(), row.dead) == expected(row)


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_a_verdict_says_how_the_count_and_the_published_figure_agree(row):
    total = sum(expected(row))
    unit = {"K": 1_000, "M": 1_000_000}.get(row.published[-1], 1)
    number = row.published.rstrip("KM").replace(",", "")
    # The value of one unit of the last digit printed.
    digit = unit // 10 ** len(number.partition(".")[2])
    published = round(float(number) * unit)
    rounds, is_cut = 2 * abs(total - published) <= digit, 0 <= total - published < digit
    assert {
        "exact": rounds,
        "fit": rounds,
        "cut": is_cut and not rounds,
        "near": not rounds and not is_cut and abs(total / published - 1) < 0.03,
        "off": not rounds and not is_cut,
        "open": True,
    }[row.verdict]


def test_every_figure_of_the_table_is_there_in_its_order():
    assert list(COUNTS) == list(dict.fromkeys(row.name for row in ROWS))
    for network, figures in PUBLISHED.items():
        rows = [row for row in ROWS if row.name.startswith(network)]
        assert list({row.name: row.published for row in rows}.values()) == figures.split()
    assert sum(len(figures.split()) for figures in PUBLISHED.values()) == len(COUNTS)


def test_the_command_prints_every_row_within_120_columns():
    result = subprocess.run(
        [sys.executable, "-m", "neurocoder.parameter_counts"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0 and result.stderr == "", result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 120
    for row in ROWS:
        (line,) = (
            line
            for line in lines
            if line.startswith(f"{row.name}  ") and f"  {expected(row)[0]:,}  {row.verdict} " in line
        )
        assert f"  {row.published}  " in line
    for verdict in VERDICTS:
        assert any(line.startswith(f"{verdict} ") for line in lines)
