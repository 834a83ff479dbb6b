"""Settings read from JSON, and refusals of those that do not fit."""

from dataclasses import asdict, dataclass, field
from typing import Literal

import pytest

from agents.stored_settings import read_settings, select


@dataclass(frozen=True)
class Inner:
    width: int | None = 3
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    rate: float
    inner: Inner = field(default_factory=Inner)
    seeds: tuple[int, ...] = (1,)
    workers: int | Literal["auto"] = 2


STORED = {"rate": 1, "inner": {"width": None, "kind": "b"}, "seeds": [3, 4], "workers": "auto"}


def test_stored_settings_are_read_with_their_types():
    settings = read_settings(Outer, STORED)
    assert settings == Outer(rate=1.0, inner=Inner(None, "b"), seeds=(3, 4), workers="auto")
    assert isinstance(settings.rate, float) and asdict(settings)["seeds"] == (3, 4)


def test_missing_settings_have_their_defaults():
    assert read_settings(Outer, {"rate": 2.0, "inner": {}}) == Outer(rate=2.0)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"invented": 1}, "^invented is no setting"),
        ({"inner": {"invented": 1}}, "^inner.invented is no setting"),
        ({"rate": "fast"}, "Expected `float`, got `str`.*rate"),
        ({"inner": {"kind": "c"}}, "Invalid enum value 'c'.*inner.kind"),
        ({"inner": {"width": "wide"}}, "inner.width"),
        ({"inner": [1]}, "Expected `object`, got `array`.*inner"),
        ({"seeds": 3}, "Expected `array`, got `int`.*seeds"),
        ({"workers": "all"}, "workers"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_in_one_line_that_names_it(change, line):
    with pytest.raises(ValueError, match=line) as refusal:
        read_settings(Outer, STORED | change)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("stored", [None, 3, "text", [STORED]])
def test_settings_that_are_no_object_are_refused(stored):
    with pytest.raises(ValueError, match="Expected `object`"):
        read_settings(Outer, stored)


def test_a_missing_setting_without_a_default_is_refused():
    with pytest.raises(ValueError, match="rate"):
        read_settings(Outer, {"seeds": [1]})


def test_the_settings_of_another_class_can_be_selected_first():
    assert read_settings(Inner, select(Inner, {"kind": "b", "rate": 1.0})) == Inner(3, "b")
