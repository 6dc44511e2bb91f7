"""The routing table: a value that is replaced, never changed, and a file that holds one whole table or the last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ModelNotFound
from serving.routing.table import (
    EMPTY,
    Mirrored,
    ModelRoute,
    RoutingTable,
    Split,
    loaded,
    table_from_json,
    table_to_json,
)
from serving.routing.table_file import TableFile

ONE = EMPTY.with_version("m", "v1", "sha256:1")
TWO = ONE.with_version("m", "v2", "sha256:2")

names = st.sampled_from(["a", "b", "c"])
changes = st.lists(
    st.tuples(st.sampled_from(["with", "stable", "without", "split", "promote"]), names, names), max_size=12
)


def canary(version: str = "v2", weight: float = 0.1) -> Split:
    return Split(version=version, weight=weight, epoch="r1")


def changed(table: RoutingTable, change: tuple[str, str, str]) -> RoutingTable:
    kind, model, version = change
    if kind == "without":
        return table.without_version(model, version, reason="gone")
    if kind in ("split", "promote"):
        try:
            return table.with_split(model, canary(version)) if kind == "split" else table.with_stable(model, version)
        except (ModelNotFound, ValueError):
            kind = "with"
    return table.with_version(model, version, f"sha256:{version}", stable=kind == "stable")


class TestTheTable:
    @given(changes)
    def test_every_change_is_a_new_generation_that_can_be_written_down(
        self, script: list[tuple[str, str, str]]
    ) -> None:
        table = EMPTY
        for number, change in enumerate(script, start=1):
            before = table_to_json(table)
            table, old = changed(table, change), table
            assert table_to_json(old) == before, "a table never changes"
            assert table.generation == number
            assert table_from_json(table_to_json(table)) == table
            assert all(route.stable in route.versions for route in table.models.values())
            splits = [(route, route.split) for route in table.models.values() if route.split is not None]
            assert all(split.version in {*route.versions} - {route.stable} for route, split in splits)
            served = {f"{model}@{version}" for model, version in loaded(table)}
            assert not served & table.unavailable.keys()

    def test_the_first_version_answers_until_another_is_made_stable(self) -> None:
        assert TWO.resolve("m", None) == "v1"
        assert TWO.with_version("m", "v2", "sha256:2", stable=True).resolve("m", None) == "v2"

    def test_a_version_can_be_asked_for_by_name(self) -> None:
        assert TWO.resolve("m", "v2") == "v2"

    def test_what_is_not_there_is_not_found_and_what_is_there_is_said(self) -> None:
        with pytest.raises(ModelNotFound, match="model 'x' isn't served here"):
            TWO.resolve("x", None)
        with pytest.raises(ModelNotFound, match="has no version 'v3' loaded, only v1, v2"):
            TWO.resolve("m", "v3")

    def test_without_its_stable_version_the_one_added_last_answers(self) -> None:
        three = TWO.with_version("m", "v0", "sha256:0")
        assert three.without_version("m", "v1").resolve("m", None) == "v0"
        assert three.without_version("m", "v2").resolve("m", None) == "v1"

    def test_without_its_last_version_a_model_is_gone(self) -> None:
        assert dict(loaded(ONE.without_version("m", "v1"))) == {}
        assert ONE.without_version("m", "v1").models == {}

    def test_a_reason_is_kept_until_the_version_is_served_or_leaves_without_one(self) -> None:
        failed = ONE.without_version("n", "v1", reason="broken")
        assert failed.unavailable == {"n@v1": "broken"}
        assert failed.with_version("n", "v1", "sha256:1").unavailable == {}
        assert failed.without_version("n", "v1").unavailable == {}
        assert failed.with_version("n", "v2", "sha256:2").unavailable == {"n@v1": "broken"}

    def test_all_that_is_loaded_is_named_with_its_digest(self) -> None:
        assert dict(loaded(TWO)) == {("m", "v1"): "sha256:1", ("m", "v2"): "sha256:2"}

    def test_a_stable_version_that_is_not_there_is_impossible(self) -> None:
        with pytest.raises(ValueError, match="'v9' isn't among"):
            ModelRoute("v9", {"v1": "sha256:1"})

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"{",
            b"[]",
            b"\xff",
            b'{"generation": "1"}',
            b'{"unknown": 1}',
            b'{"models": {"m": {"stable": "v9", "versions": {}}}}',
            b'{"unavailable": {"\xff": "x"}}',
        ],
    )
    def test_what_is_no_table_is_refused(self, raw: bytes) -> None:
        with pytest.raises(ValueError, match=r"."):
            table_from_json(raw)


class TestWhatIsComing:
    def test_it_is_coming_until_it_is_there_or_known_not_to_come(self) -> None:
        table = EMPTY.expecting(["m@v2", "m@v1", "n@v1"])
        assert (table.generation, table.coming) == (1, ("m@v1", "m@v2", "n@v1"))
        assert table.expecting(["n@v1", "m@v1", "m@v2"]) is table
        assert table.with_version("m", "v1", "sha256:1").coming == ("m@v2", "n@v1")
        assert table.without_version("n", "v1", reason="it can't be read").coming == ("m@v1", "m@v2")
        assert table.with_withdrawn({"sha256:9": "bad"}).coming == table.coming
        assert table_from_json(table_to_json(table)) == table

    def test_it_is_asked_for_by_model_or_by_version(self) -> None:
        table = EMPTY.expecting(["m@v1"])
        assert [table.comes("m", None), table.comes("m", "v1")] == [True, True]
        assert [table.comes("m", "v2"), table.comes("mm", None), table.comes("n", None)] == [False, False, False]


class TestASplit:
    def test_a_canary_gets_a_weight_another_one_and_none(self) -> None:
        five = TWO.with_split("m", canary(weight=0.05))
        fifty = five.with_split("m", canary(weight=0.5))
        none = fifty.with_split("m", None)
        weights = [
            None if (split := table.models["m"].split) is None else split.weight for table in (five, fifty, none)
        ]
        assert weights == [0.05, 0.5, None]
        assert [table.generation for table in (five, fifty, none)] == [3, 4, 5]
        assert [table.resolve("m", None) for table in (five, fifty, none)] == ["v1"] * 3

    def test_it_can_be_written_down_with_all_that_it_says(self) -> None:
        split = Split(version="v2", weight=0.1, epoch="r1", stickiness="random", objective_s=0.05)
        table = TWO.with_split("m", split)
        assert table_from_json(table_to_json(table)).models["m"].split == split

    def test_a_table_without_one_reads_as_before_there_were_any_and_says_nothing_of_it(self) -> None:
        model = b'{"stable":"v1","versions":{"v1":"sha256:1"}}'
        raw = b'{"generation":1,"models":{"m":%b},"unavailable":{},"withdrawn":{}}' % model
        assert table_from_json(raw) == ONE
        assert b"split" not in table_to_json(ONE)

    @pytest.mark.parametrize("weight", [-0.01, 1.01, float("nan"), float("inf")])
    def test_a_weight_is_a_share(self, weight: float) -> None:
        with pytest.raises(ValueError, match="must be from 0 to 1"):
            canary(weight=weight)

    def test_it_needs_a_name_and_a_possible_objective(self) -> None:
        with pytest.raises(ValueError, match="no epoch"):
            Split(version="v2", weight=0.1, epoch="")
        with pytest.raises(ValueError, match="objective_s"):
            Split(version="v2", weight=0.1, epoch="r1", objective_s=0.0)

    def test_a_canary_that_is_not_served_is_refused(self) -> None:
        with pytest.raises(ValueError, match="the canary 'v3' isn't among"):
            TWO.with_split("m", canary("v3"))
        with pytest.raises(ModelNotFound):
            TWO.with_split("x", canary())

    def test_the_stable_version_is_no_canary(self) -> None:
        with pytest.raises(ValueError, match="can't be its own canary"):
            TWO.with_split("m", canary("v1"))

    @pytest.mark.parametrize(
        "raw",
        [
            b'{"version":"v2","weight":2,"epoch":"r1"}',
            b'{"version":"v3","weight":0.1,"epoch":"r1"}',
            b'{"version":"v1","weight":0.1,"epoch":"r1"}',
            b'{"version":"v2","weight":0.1,"epoch":"r1","stickiness":"gum"}',
            b'{"version":"v2","weight":0.1,"epoch":"r1","wait":1}',
        ],
    )
    def test_nor_is_any_of_that_read(self, raw: bytes) -> None:
        versions = b'{"v1":"sha256:1","v2":"sha256:2"}'
        with pytest.raises(ValueError, match=r"."):
            table_from_json(b'{"models":{"m":{"stable":"v1","versions":%b,"split":%b}}}' % (versions, raw))

    def test_promotion_ends_it_and_keeps_the_prior_version(self) -> None:
        promoted = TWO.with_split("m", canary()).with_stable("m", "v2")
        assert promoted.models["m"] == ModelRoute("v2", {"v1": "sha256:1", "v2": "sha256:2"})
        with pytest.raises(ModelNotFound):
            promoted.with_stable("m", "v3")

    def test_other_versions_come_and_go_beside_it(self) -> None:
        table = TWO.with_split("m", canary()).with_version("m", "v3", "sha256:3").with_version("n", "v1", "sha256:4")
        assert table.without_version("m", "v3").without_version("n", "v1").models["m"].split == canary()

    def test_it_ends_with_either_of_its_two_versions(self) -> None:
        table = TWO.with_version("m", "v3", "sha256:3").with_split("m", canary())
        for changed_table in (
            table.without_version("m", "v2", withdraw=True),
            table.without_version("m", "v1"),
            table.with_version("m", "v3", "sha256:3", stable=True),
        ):
            assert changed_table.models["m"].split is None

    def test_an_unproven_canary_takes_over_only_for_want_of_others(self) -> None:
        table = EMPTY.with_version("m", "v1", "sha256:1").with_version("m", "v0", "sha256:0")
        table = table.with_version("m", "v2", "sha256:2").with_split("m", canary())
        assert table.without_version("m", "v1").resolve("m", None) == "v0"
        assert TWO.with_split("m", canary()).without_version("m", "v1").resolve("m", None) == "v2"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "routing.json"


class TestTheFile:
    def test_without_a_file_the_table_is_empty(self, path: Path) -> None:
        assert TableFile(path).read() == EMPTY

    def test_what_one_process_writes_another_reads(self, path: Path) -> None:
        TableFile(path).write(TWO)
        assert TableFile(path).read() == TWO

    def test_a_file_that_is_no_table_is_an_error_until_it_is_one(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(b"{")
        with pytest.raises(ValueError, match=r"."):
            TableFile(path).read()
        TableFile(path).write(ONE)
        assert TableFile(path).read() == ONE

    def test_a_reader_never_sees_half_a_table(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        writer = TableFile(path)
        writer.write(ONE)
        seen: list[RoutingTable] = []
        sync = os.fsync

        def watching(descriptor: int) -> None:
            seen.append(TableFile(path).read())
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", watching)
        writer.write(TWO)
        assert seen == [ONE, TWO]

    def test_a_writer_that_dies_leaves_the_table_before(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        writer = TableFile(path)
        writer.write(ONE)

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                writer.write(TWO)
        assert TableFile(path).read() == ONE
        writer.write(TWO)
        assert TableFile(path).read() == TWO


def test_a_mirror_stays_until_its_version_leaves_or_becomes_stable() -> None:
    table = RoutingTable().with_version("m", "v1", "sha256:1").with_version("m", "v2", "sha256:2")
    mirrored = table.with_mirror("m", "v2", 0.5)
    assert mirrored.generation == table.generation + 1
    assert mirrored.models["m"].mirror == Mirrored("v2", 0.5)
    assert mirrored.with_version("m", "v3", "sha256:3").models["m"].mirror == Mirrored("v2", 0.5)
    assert table_from_json(table_to_json(mirrored)) == mirrored
    for without in (
        mirrored.without_mirror("m"),
        mirrored.without_version("m", "v2"),
        mirrored.without_version("m", "v1"),
        mirrored.with_version("m", "v2", "sha256:2", stable=True),
    ):
        assert without.models["m"].mirror is None
