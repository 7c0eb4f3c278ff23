"""Plug-ins: names, entry points, settings and one-line errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.errors import ConfigError
from program.plugins import Registry, load_path, parameters, split_spec

GROUP = "personaagent.test_filters"


@dataclass(frozen=True)
class Threshold:
    """A plug-in with one setting of each type."""

    margin: float = 0.5
    size: int = 3
    strict: bool = False
    label: str = "plain"

    def accept(self) -> bool:
        return self.strict


class Outer:
    @dataclass(frozen=True)
    class Inner:
        margin: float = 0.5

        def accept(self) -> bool:
            return True


class Filter(Protocol):
    def accept(self) -> bool: ...


class Plain(Filter):
    def accept(self) -> bool:
        return True


@dataclass(frozen=True)
class Required:
    margin: float

    def accept(self) -> bool:
        return True


INSTANCE = Threshold()

FILTERS = Registry(
    kind="filter",
    group=GROUP,
    built_in={"threshold": f"{__name__}:Threshold", "plain": f"{__name__}:Plain"},
    members=("accept",),
    listing="personaagent filters",
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that registers three filters, one of them broken and one with a built-in name."""
    (tmp_path / "extra_filters.py").write_text("class Extra:\n    def accept(self): return True\n")
    info = tmp_path / "extra_filters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra-filters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\nzeta = extra_filters:Extra\nbroken = no_such_module:X\nthreshold = extra_filters:Extra\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


class TestNames:
    def test_without_packages_only_built_in_names_are_listed(self) -> None:
        assert FILTERS.names() == ["threshold", "plain"]

    @pytest.mark.usefixtures("package")
    def test_entry_points_follow_in_alphabetical_order(self) -> None:
        assert FILTERS.names() == ["threshold", "plain", "broken", "zeta"]


class TestLoad:
    def test_built_in_name_and_path_load_the_same_class(self) -> None:
        assert FILTERS.load("threshold") is FILTERS.load(f"{__name__}:Threshold") is Threshold

    def test_path_of_a_nested_class_loads(self) -> None:
        assert FILTERS.load(f"{__name__}:Outer.Inner") is Outer.Inner

    @pytest.mark.usefixtures("package")
    def test_entry_point_loads_its_class(self) -> None:
        assert FILTERS.load("zeta").__name__ == "Extra"

    @pytest.mark.usefixtures("package")
    def test_built_in_name_wins_over_an_entry_point(self) -> None:
        assert FILTERS.load("threshold") is Threshold

    @pytest.mark.usefixtures("package")
    def test_entry_point_that_cannot_be_imported_is_a_config_error(self) -> None:
        with pytest.raises(
            ConfigError, match="cannot load filter 'broken': No module named 'no_such_module'"
        ):
            FILTERS.load("broken")

    def test_unknown_name_lists_the_names_and_the_command(self) -> None:
        with pytest.raises(
            ConfigError,
            match=r"unknown filter 'thresh'; use one of threshold, plain \(see `personaagent filters`\), "
            "or module:Class",
        ):
            FILTERS.load("thresh")

    @pytest.mark.parametrize(
        ("path", "problem"),
        [
            ("json:JSONDecoder", "is not a filter: it has no `accept`"),
            ("json:dumps", "is not a filter: it is not a class"),
            (f"{__name__}:INSTANCE", "is not a filter: it is not a class"),
            ("json:Missing", "cannot load filter 'json:Missing': module 'json' has no attribute 'Missing'"),
            ("no_such_module:X", "cannot load filter 'no_such_module:X': No module named"),
            ("json:", "cannot load filter 'json:'"),
        ],
    )
    def test_invalid_path_is_a_config_error(self, path: str, problem: str) -> None:
        with pytest.raises(ConfigError, match=problem):
            FILTERS.load(path)

    def test_module_that_raises_on_import_is_a_config_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "raises_on_import.py").write_text("raise RuntimeError('no licence')")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError, match="cannot load the thing: no licence"):
            load_path("raises_on_import:X", "the thing")


class TestMake:
    def test_settings_are_converted_to_their_types(self) -> None:
        assert FILTERS.make("threshold:margin=0.1,size=7,strict=true,label=x") == Threshold(0.1, 7, True, "x")

    def test_spec_overrides_defaults_and_unknown_defaults_are_ignored(self) -> None:
        defaults = {"size": "9", "margin": "0.9", "other": "1"}
        assert FILTERS.make("threshold:margin=0.1", defaults) == Threshold(margin=0.1, size=9)
        assert isinstance(FILTERS.make("plain", defaults), Plain)

    def test_each_call_makes_a_new_object(self) -> None:
        assert FILTERS.make("plain") is not FILTERS.make("plain")

    @pytest.mark.parametrize(
        ("spec", "problem"),
        [
            ("threshold:depth=1", "filter 'threshold' has no setting `depth`; it has: margin, size, strict"),
            ("plain:depth=1", "filter 'plain' has no setting `depth`; it has: none"),
            (
                "threshold:size=many",
                "filter 'threshold': `size` cannot be 'many': Input should be a valid int",
            ),
            ("threshold:strict=perhaps", "`strict` cannot be 'perhaps'"),
            (f"{__name__}:Required", "needs the setting `margin`"),
            ("size=3", "cannot read 'size=3'; write it like"),
        ],
    )
    def test_invalid_settings_are_a_config_error(self, spec: str, problem: str) -> None:
        with pytest.raises(ConfigError, match=problem):
            FILTERS.make(spec)

    def test_required_setting_is_accepted(self) -> None:
        assert FILTERS.make(f"{__name__}:Required:margin=2") == Required(2.0)


class TestSpecOf:
    def test_defaults_are_omitted_and_built_in_names_are_used(self) -> None:
        assert FILTERS.spec_of(Threshold()) == "threshold"
        assert FILTERS.spec_of(Threshold(size=4)) == "threshold:size=4"

    def test_other_classes_get_their_path(self) -> None:
        assert FILTERS.spec_of(Required(0.25)) == f"{__name__}:Required:margin=0.25"

    def test_nested_class_round_trips(self) -> None:
        plugin = Outer.Inner(margin=2.0)
        assert FILTERS.make(FILTERS.spec_of(plugin)) == plugin

    @given(
        margin=st.floats(allow_nan=False),
        size=st.integers(),
        strict=st.booleans(),
        label=st.text("abcXYZ019-_.: ", min_size=1).filter(lambda text: text == text.strip()),
    )
    def test_make_recreates_the_plugin(self, margin: float, size: int, strict: bool, label: str) -> None:
        plugin = Threshold(margin, size, strict, label)
        assert FILTERS.make(FILTERS.spec_of(plugin)) == plugin


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("best", ("best", {})),
        ("mine:Careful", ("mine:Careful", {})),
        ("rag:k=8, retrieval = dense", ("rag", {"k": "8", "retrieval": "dense"})),
        ("mine:Careful:margin=0.1", ("mine:Careful", {"margin": "0.1"})),
        ("align:batch=mine:Longest:k=2", ("align", {"batch": "mine:Longest:k=2"})),
        ("x:a=", ("x", {"a": ""})),
    ],
)
def test_spec_splits_into_name_and_settings(spec: str, expected: tuple[str, dict[str, str]]) -> None:
    assert split_spec(spec) == expected


def test_parameters_exclude_variadic_arguments() -> None:
    assert parameters(Plain) == {}
    assert parameters(Threshold) == {"margin": float, "size": int, "strict": bool, "label": str}
