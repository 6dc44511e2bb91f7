"""Bringing versions up and down while the system runs: what is served is always something that can answer."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from models.manifest import ModelVersion
from serving.errors import InvalidRequest, LoadFailed, ModelNotFound, RolloutRefused, RolloutsUnavailable
from serving.model_settings import ModelSettings
from serving.rollout import withdrawn_file
from serving.rollout.versions import UNLOADED, natural_key, wishes
from serving.routing import table_file
from serving.routing.table import RoutingTable
from serving.routing.table_file import write_whole
from tests.fakes import FakeClock, publish_version, settled
from tests.versions import Rig, asking_for


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    for version in ("v1", "v2", "v10"):
        publish_version(rig.registry, "m", version, version.encode())
    publish_version(rig.registry, "n", "v1")
    return rig


class TestLoading:
    async def test_a_version_is_served_once_its_replicas_are_ready(self, clock: FakeClock, rig: Rig) -> None:
        await rig.control.load("m", asking_for("v1"))
        assert rig.journal == [("deploying", "m@v1"), ("ready", "m@v1"), ("published", "m@v1*")]
        digest = rig.registry.manifest("m", "v1").digest
        assert rig.file.read().models["m"].versions == {"v1": digest}

    async def test_without_a_wish_it_is_the_highest_version_of_the_store(self, clock: FakeClock, rig: Rig) -> None:
        await rig.control.load("m")
        assert rig.served == "m@v10*"

    async def test_a_second_version_waits_for_traffic(self, clock: FakeClock, rig: Rig) -> None:
        await rig.control.load("m", asking_for("v2"))
        await rig.control.load("m", asking_for("v10"))
        await rig.control.load("n")
        assert rig.served == "m@v10 m@v2* n@v1*"

    async def test_what_was_rolled_back_comes_back_by_a_rollout_only(self, clock: FakeClock, rig: Rig) -> None:
        marked = {"m@v10": "it failed"}
        with pytest.raises(RolloutRefused, match=r"^m@v10 was rolled back: it failed; .*holdfast rollout start"):
            await rig.control.load("m", asking_for("v10"), rolled_back=marked)
        assert rig.journal == []
        await rig.control.load("m", rolled_back=marked)
        assert rig.served == "m@v2*"

    async def test_loading_what_is_loaded_changes_nothing_and_tells_the_gateways_again(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        await rig.control.load("m")
        first = rig.control.table
        await rig.control.load("m")
        assert rig.control.table is first
        assert rig.published == [first, first]

    async def test_a_version_that_fails_is_taken_away_and_the_one_that_runs_stays(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        await rig.control.load("m", asking_for("v1"))
        rig.deployer.failures["m@v2"] = LoadFailed("it gave 7 where its golden example says 8")
        with pytest.raises(LoadFailed, match="m@v2 can't be loaded: it gave 7 where"):
            await rig.control.load("m", asking_for("v2"))
        assert rig.served == "m@v1*"
        assert rig.control.table.unavailable == {"m@v2": "it gave 7 where its golden example says 8"}
        assert rig.deployer.running == {"m@v1"}

    async def test_a_version_that_runs_is_not_taken_away_because_loading_it_again_fails(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        await rig.control.load("m", asking_for("v1"))
        rig.deployer.failures["m@v1"] = LoadFailed("busy")
        with pytest.raises(LoadFailed):
            await rig.control.load("m", asking_for("v1"))
        assert rig.served == "m@v1*"
        assert ("deleted", "m@v1") not in rig.journal

    async def test_the_reason_goes_when_the_version_comes(self, clock: FakeClock, rig: Rig) -> None:
        rig.deployer.failures["m@v1"] = LoadFailed("not today")
        with pytest.raises(LoadFailed):
            await rig.control.load("m", asking_for("v1"))
        del rig.deployer.failures["m@v1"]
        await rig.control.load("m", asking_for("v1"))
        assert rig.control.table.unavailable == {}

    async def test_a_corrupt_artifact_names_the_file_and_both_digests(self, clock: FakeClock, rig: Rig) -> None:
        manifest = rig.registry.manifest("m", "v1")
        published = next(file.sha256 for file in manifest.files if file.path == "model.onnx")
        (rig.registry.directory("m", "v1") / "model.onnx").write_bytes(b"rotten")
        with pytest.raises(LoadFailed) as caught:
            await rig.control.load("m", asking_for("v1"))
        assert "'model.onnx'" in caught.value.message
        assert published in caught.value.message
        assert caught.value.message.count("sha256:") == 2
        assert ("deploying", "m@v1") not in rig.journal
        assert "sha256" in rig.control.table.unavailable["m@v1"]

    @pytest.mark.parametrize("error", [TimeoutError(), OSError(28, "No space left on device")])
    async def test_a_version_that_is_never_ready_is_taken_away_with_a_reason(
        self, clock: FakeClock, rig: Rig, error: OSError
    ) -> None:
        rig.deployer.failures["m@v1"] = error
        with pytest.raises(LoadFailed, match=r"m@v1 can't be loaded: ."):
            await rig.control.load("m", asking_for("v1"))
        assert rig.control.table.unavailable["m@v1"]
        assert rig.deployer.running == set()

    @pytest.mark.parametrize(
        ("model", "body"),
        [
            ("m", asking_for("v3")),
            ("x", b""),
            ("x", asking_for("v1")),
            ("m", asking_for("../n")),
            ("A B", asking_for("v1")),
        ],
    )
    async def test_what_the_store_does_not_have_is_not_found_and_leaves_no_trace(
        self, clock: FakeClock, rig: Rig, model: str, body: bytes
    ) -> None:
        with pytest.raises(ModelNotFound):
            await rig.control.load(model, body)
        assert rig.journal == []
        assert rig.control.table == RoutingTable()

    async def test_commands_for_one_model_wait_for_each_other_and_those_for_another_do_not(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        rig.deployer.gate = asyncio.Event()
        commands = [
            asyncio.create_task(rig.control.load("m", asking_for("v1"))),
            asyncio.create_task(rig.control.load("m", asking_for("v2"))),
            asyncio.create_task(rig.control.load("n")),
        ]
        await settled(30)
        assert sorted(rig.journal) == [("deploying", "m@v1"), ("deploying", "n@v1")]
        rig.deployer.gate.set()
        await asyncio.gather(*commands)
        assert rig.served == "m@v1* m@v2 n@v1*"
        assert [table.generation for table in rig.published] == [1, 2, 3]

    async def test_a_model_is_deployed_as_the_settings_say(self, clock: FakeClock, tmp_path: Path) -> None:
        rig = Rig(tmp_path, ModelSettings(name="m", versions=("v1",), replicas=3))
        publish_version(rig.registry, "m", "v1")
        publish_version(rig.registry, "n", "v1")
        await rig.control.load("m")
        await rig.control.load("n")
        assert rig.deployer.settings["m@v1"].replicas == 3
        assert rig.deployer.settings["n@v1"] == ModelSettings(name="n", versions=("v1",))


class TestADiskWithoutRoom:
    async def test_a_version_that_cannot_be_written_down_is_not_left_running(
        self, clock: FakeClock, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await rig.control.load("m", asking_for("v1"))
        monkeypatch.setattr(rig.file, "write", full)
        with pytest.raises(RolloutsUnavailable, match="No space left"):
            await rig.control.load("m", asking_for("v2"))
        assert (rig.served, rig.deployer.running) == ("m@v1*", {"m@v1"})
        with pytest.raises(RolloutsUnavailable, match="No space left"):
            await rig.control.unload("m", asking_for("v1"))
        assert (rig.served, rig.deployer.running) == ("m@v1*", {"m@v1"})


def full(_: RoutingTable) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestUnloading:
    async def test_a_version_is_out_of_the_table_before_its_replicas_end(self, clock: FakeClock, rig: Rig) -> None:
        await rig.control.load("m", asking_for("v1"))
        rig.journal.clear()
        await rig.control.unload("m")
        assert rig.journal == [("published", ""), ("deleted", "m@v1")]
        assert rig.file.read().models == {}

    async def test_a_version_that_failed_is_out_of_the_table_before_its_replicas_end(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        rig.deployer.failures["m@v1"] = LoadFailed("no")
        with pytest.raises(LoadFailed):
            await rig.control.load("m", asking_for("v1"))
        assert rig.journal == [("deploying", "m@v1"), ("published", ""), ("deleted", "m@v1")]

    async def test_without_the_stable_version_the_one_that_was_added_last_answers(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        for version in ("v10", "v1", "v2"):
            await rig.control.load("m", asking_for(version))
        await rig.control.unload("m", asking_for("v10"))
        assert rig.served == "m@v1 m@v2*"
        await rig.control.unload("m", asking_for("v1"))
        assert rig.served == "m@v2*"

    async def test_without_a_wish_all_versions_go(self, clock: FakeClock, rig: Rig) -> None:
        for version in ("v1", "v2"):
            await rig.control.load("m", asking_for(version))
        await rig.control.load("n")
        await rig.control.unload("m")
        assert (rig.served, rig.deployer.running) == ("n@v1*", {"n@v1"})

    @pytest.mark.parametrize(("model", "body"), [("m", b""), ("n", asking_for("v2")), ("x", b"")])
    async def test_what_is_not_loaded_is_not_found(self, clock: FakeClock, rig: Rig, model: str, body: bytes) -> None:
        await rig.control.load("n")
        with pytest.raises(ModelNotFound):
            await rig.control.unload(model, body)
        assert rig.served == "n@v1*"


def withdrawing(version: str) -> bytes:
    return b'{"parameters": {"version": "%s", "withdraw": true}}' % version.encode()


class TestWithdrawing:
    async def withdrawn(self, rig: Rig) -> str:
        """The digest of v2, which is withdrawn, while v1 is served."""
        for version in ("v1", "v2"):
            await rig.control.load("m", asking_for(version))
        await rig.control.unload("m", withdrawing("v2"))
        return rig.registry.manifest("m", "v2").digest

    async def test_a_restart_of_everything_does_not_take_it_back(
        self, clock: FakeClock, rig: Rig, tmp_path: Path
    ) -> None:
        digest = await self.withdrawn(rig)
        rig.models = (ModelSettings(name="m", versions=("v1",)),)
        rig.published.clear()
        await rig.run_anew(tmp_path).start()
        assert rig.served == "m@v1*"
        assert {tuple(table.withdrawn) for table in rig.published} == {(digest,)}, "from the first table on"

    async def test_nor_do_settings_that_name_the_version(self, clock: FakeClock, rig: Rig, tmp_path: Path) -> None:
        digest = await self.withdrawn(rig)
        rig.models = (ModelSettings(name="m", versions=("v1", "v2")),)
        await rig.run_anew(tmp_path).start()
        assert rig.served == "m@v1 m@v2*"
        assert list(rig.file.read().withdrawn) == [digest]
        await rig.restarted().start()
        assert list(rig.file.read().withdrawn) == [digest]

    async def test_a_person_who_loads_the_version_does(self, clock: FakeClock, rig: Rig, tmp_path: Path) -> None:
        await self.withdrawn(rig)
        rig.models = (ModelSettings(name="m", versions=("v1", "v2")),)
        await rig.run_anew(tmp_path).start()
        await rig.control.load("m", asking_for("v2"))  # it is served already
        assert (rig.published[-1].withdrawn, rig.withdrawn.read()) == ({}, {})
        await rig.run_anew(tmp_path).start()
        assert rig.control.table.withdrawn == {}

    async def test_a_control_plane_that_starts_alone_tells_the_gateways(self, clock: FakeClock, rig: Rig) -> None:
        """The one before it died after it had written the first of the two files."""
        await rig.control.load("m", asking_for("v1"))
        rig.withdrawn.write({"sha256:0": UNLOADED})
        before = rig.control.table
        rig.published.clear()
        await rig.restarted().start()
        assert rig.published[0].withdrawn == {"sha256:0": UNLOADED}
        assert rig.published[0].generation > before.generation
        assert rig.published[0].models == before.models

    @pytest.mark.parametrize(("command", "dies_at"), [("withdraw", 1), ("load", 0), ("load", 1)])
    async def test_a_command_that_is_cut_short_leaves_withdrawn_what_it_is_about(
        self, clock: FakeClock, rig: Rig, monkeypatch: pytest.MonkeyPatch, command: str, dies_at: int
    ) -> None:
        """Whoever gave it heard no answer, and gives it again."""
        digest = await self.withdrawn(rig)
        if command == "withdraw":
            await rig.control.load("m", asking_for("v2"))
        written: list[Path] = []

        def dying(path: Path, content: bytes) -> None:
            if len(written) == dies_at:
                raise OSError(28, "No space left on device")
            written.append(path)
            write_whole(path, content)

        control = rig.control
        cut_short = {
            "withdraw": lambda: control.unload("m", withdrawing("v2")),
            "load": lambda: control.load("m", asking_for("v2")),
        }
        with monkeypatch.context() as full:
            full.setattr(table_file, "write_whole", dying)
            full.setattr(withdrawn_file, "write_whole", dying)
            with pytest.raises(RolloutsUnavailable, match="No space"):
                await cut_short[command]()
        await rig.restarted().start()
        assert list(rig.control.table.withdrawn) == list(rig.withdrawn.read()) == [digest]
        await rig.control.load("m", asking_for("v2"))
        assert (rig.control.table.withdrawn, rig.withdrawn.read()) == ({}, {})

    def test_a_file_that_says_something_else_is_not_taken_for_an_empty_one(self, rig: Rig, tmp_path: Path) -> None:
        for spoilt in (b"", b"[]", b'{"sha256:0": 1}', b"\xff"):
            (tmp_path / "withdrawn.json").write_bytes(spoilt)
            with pytest.raises(ValueError, match=r"withdrawn\.json doesn't say"):
                rig.restarted()


class TestStarting:
    async def test_every_version_of_the_settings_is_served_and_the_stable_one_answers(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        rig.models = (
            ModelSettings(name="m", versions=("v1", "v2", "v10"), stable="v2"),
            ModelSettings(name="n", versions=("v1",)),
        )
        await rig.restarted().start()
        assert rig.served == "m@v1 m@v10 m@v2* n@v1*"
        assert next(event for event in rig.journal if event[1].startswith("m@")) == ("deploying", "m@v2")

    async def test_without_settings_every_model_is_served_in_its_highest_version(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        await rig.control.start()
        assert rig.served == "m@v10* n@v1*"

    async def test_while_versions_come_up_the_table_says_which_are_still_to_come(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        rig.models = (ModelSettings(name="m", versions=("v1", "v2", "v7")), ModelSettings(name="n", versions=("v1",)))
        rig.deployer.failures["m@v2"] = LoadFailed("no")
        rig.deployer.gate = asyncio.Event()
        starting = asyncio.create_task(rig.restarted().start())
        await settled()
        assert rig.published[0].models == {}
        assert rig.published[0].coming == ("m@v1", "m@v2", "m@v7", "n@v1")
        rig.deployer.gate.set()
        await starting
        assert rig.control.table.coming == (), "what came, what failed and what isn't in the store"
        published = len(rig.published)
        await rig.control.start()
        assert ("m@v2", "m@v7") in [table.coming for table in rig.published[published:]], "tried once more"
        assert rig.control.table.coming == ()

    async def test_with_nothing_to_serve_it_serves_nothing(self, clock: FakeClock, tmp_path: Path) -> None:
        rig = Rig(tmp_path)
        await rig.control.start()
        assert (rig.served, rig.journal) == ("", [])

    @pytest.mark.parametrize("error", [LoadFailed("no"), ZeroDivisionError("a defect")])
    async def test_a_version_that_fails_does_not_stop_the_others(
        self, clock: FakeClock, rig: Rig, error: Exception
    ) -> None:
        rig.models = (ModelSettings(name="m", versions=("v1", "v2")), ModelSettings(name="n", versions=("v1",)))
        rig.deployer.failures["m@v2"] = error
        await rig.restarted().start()
        assert rig.served == "m@v1* n@v1*"

    async def test_a_version_that_is_not_in_the_store_does_not_stop_the_others(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        rig.models = (ModelSettings(name="m", versions=("v1", "v7")),)
        await rig.restarted().start()
        assert rig.served == "m@v1*"

    async def test_after_a_restart_the_last_table_counts_and_not_the_settings(self, clock: FakeClock, rig: Rig) -> None:
        rig.models = (ModelSettings(name="m", versions=("v1", "v2")), ModelSettings(name="n", versions=("v1",)))
        await rig.restarted().start()
        await rig.control.unload("m", asking_for("v1"))
        before = rig.control.table
        rig.journal.clear()
        await rig.restarted().start()
        assert rig.control.table == before
        assert {event for event in rig.journal if event[0] == "deploying"} == {
            ("deploying", "m@v2"),
            ("deploying", "n@v1"),
        }
        assert rig.published[-1] == before, "gateways that missed it hear of it"


class TestForRollouts:
    async def test_a_version_is_brought_up_beside_those_that_are_served(self, clock: FakeClock, rig: Rig) -> None:
        await rig.control.load("m", asking_for("v1"))
        for _ in range(2):
            await rig.control.bring_up(ModelVersion("m", "v2"))
            assert rig.served == "m@v1* m@v2"

    async def test_one_that_was_withdrawn_is_so_no_more(self, clock: FakeClock, rig: Rig) -> None:
        for version in ("v1", "v2"):
            await rig.control.load("m", asking_for(version))
        await rig.control.unload("m", withdrawing("v2"))
        await rig.control.bring_up(ModelVersion("m", "v2"))
        assert rig.control.table.withdrawn == {}

    async def test_it_ends_out_of_the_table_first_and_again_without_harm(self, clock: FakeClock, rig: Rig) -> None:
        for version in ("v1", "v2"):
            await rig.control.load("m", asking_for(version))
        rig.journal.clear()
        for _ in range(2):
            await rig.control.end(ModelVersion("m", "v2"), reason="replaced")
        assert rig.journal == [("published", "m@v1*"), ("deleted", "m@v2"), ("deleted", "m@v2")]
        assert rig.control.table.unavailable["m@v2"] == "replaced"

    async def test_a_change_that_can_not_be_changes_nothing(self, clock: FakeClock, rig: Rig) -> None:
        await rig.control.load("m", asking_for("v1"))
        before, told = rig.control.table, len(rig.published)
        with pytest.raises(ModelNotFound):
            await rig.control.change(lambda table: table.with_stable("m", "v9"))
        assert (rig.control.table, rig.file.read(), len(rig.published)) == (before, before, told)

    async def test_a_change_is_made_to_its_end_though_nobody_waits_for_it(self, clock: FakeClock, rig: Rig) -> None:
        for version in ("v1", "v2"):
            await rig.control.load("m", asking_for(version))
        changing = asyncio.create_task(rig.control.change(lambda table: table.with_stable("m", "v2")))
        await asyncio.sleep(0)
        changing.cancel()
        await settled()
        assert rig.served == "m@v1 m@v2*"
        assert rig.file.read() == rig.control.table == rig.published[-1]

    async def test_a_change_waits_for_no_command(self, clock: FakeClock, rig: Rig) -> None:
        for version in ("v1", "v2"):
            await rig.control.load("m", asking_for(version))
        rig.deployer.gate = asyncio.Event()
        loading = asyncio.create_task(rig.control.load("m", asking_for("v10")))
        await settled()
        async with asyncio.timeout(1.0):
            await rig.control.change(lambda table: table.with_stable("m", "v2"))
        rig.deployer.gate.set()
        await loading
        assert rig.served == "m@v1 m@v10 m@v2*"

    async def test_it_is_known_of_a_model_when_all_its_versions_have_come_up_or_failed(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        rig.models = (ModelSettings(name="m", versions=("v1", "v2")),)
        rig.restarted()
        rig.deployer.gate = asyncio.Event()
        rig.deployer.failures["m@v2"] = LoadFailed("no")
        waiting = [asyncio.create_task(rig.control.started(model)) for model in ("m", "n")]
        await settled()
        assert [task.done() for task in waiting] == [False, False], "not even begun"
        starting = asyncio.create_task(rig.control.start())
        await settled()
        assert [task.done() for task in waiting] == [False, True]
        rig.deployer.gate.set()
        await asyncio.gather(starting, *waiting)
        assert rig.served == "m@v1*"


@pytest.mark.parametrize(
    ("body", "version"),
    [(b"", None), (b"{}", None), (b'{"parameters": {}}', None), (asking_for("v1"), "v1"), (b'{"other": 1}', None)],
)
def test_a_body_may_name_a_version(body: bytes, version: str | None) -> None:
    assert wishes(body).version == version


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"parameters": {"version": 1}}',
        b'{"parameters": []}',
        b'{"parameters": {"version": "\xff"}}',
        b"\xff",
        b'{"x": ' + b"[" * 100_000,
    ],
)
def test_a_body_that_makes_no_sense_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="the body: "):
        wishes(body)


def test_versions_are_ordered_as_people_do() -> None:
    names = ["v1", "v2", "v10", "v10.2", "v10.10", "1", "2", "10", "a", "v", "v1a", "v1-rc1"]
    ordered = sorted(names, key=natural_key)
    assert ordered.index("v2") < ordered.index("v10") < ordered.index("v10.2") < ordered.index("v10.10")
    assert ordered.index("1") < ordered.index("2") < ordered.index("10")
