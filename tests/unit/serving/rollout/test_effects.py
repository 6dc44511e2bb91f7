"""What a rollout decides is done to versions and tables, however often it is asked for and whatever was lost before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from models.manifest import ModelVersion
from models.registry import Registry
from models.signature import Signature, TensorSpec
from serving.errors import InvalidRequest, LoadFailed, RolloutRefused
from serving.model_settings import ModelSettings, ShadowSettings, UsePriorVersion
from serving.rollout.desired import DesiredState
from serving.rollout.effects import Effects
from serving.rollout.events import Abort, Promote, Rollback
from serving.rollout.state import RolloutState
from serving.rollout.versions import UNLOADED
from serving.rollout.world import Look, Told
from serving.routing.collected import Asked, Collected, collected_to_json
from serving.routing.table import RoutingTable
from serving.settings import Settings
from tests.fakes import FakeClock, publish_version, settled
from tests.rollouts import Run, at_first_weight, baking, rollout_spec
from tests.rollouts import settled as ended
from tests.versions import Rig, asking_for

V1 = ModelSettings(name="digits", versions=("v1",))


class Stage:
    """Effects over versions that are made up, and what they are told of gateways and replicas."""

    def __init__(self, folder: Path, clock: FakeClock, *models: ModelSettings) -> None:
        self.clock = clock
        self.rig = Rig(folder, *(models or (V1,)))
        self.answers: tuple[int, Sequence[bytes]] = (0, ())
        self.tell: dict[str, Callable[[Iterable[str]], None]] = {}
        for version in ("v1", "v2", "v3"):
            publish_version(self.rig.registry, "digits", version, version.encode())
        self.effects = self.restarted()

    def restarted(self) -> Effects:
        """A control plane that starts with what the last one left on disk."""
        self.effects = Effects(
            self.rig.restarted(),
            registry=self.rig.registry,
            settings=Settings(models=self.rig.models),
            clock=self.clock,
            ask=self._ask,
            watch=self._watch,
        )
        return self.effects

    def switched_off_and_on(self, folder: Path) -> Effects:
        self.rig.run_anew(folder)
        return self.restarted()

    async def begun(self, state: RolloutState | None = None, **rolled_back: str) -> None:
        rollouts = {} if state is None else {"digits": state}
        marks = {f"digits@{version}": reason for version, reason in rolled_back.items()}
        self.effects.begin(DesiredState(rollouts=rollouts, rolled_back=marks))
        await settled(60)

    async def canary(self, run: Run) -> None:
        """The rollout's canary is up, and the table as the rollout wants it."""
        await self.begun()
        await self.effects.deploy(run.state.spec, "v1")
        await self.effects.arrange(lambda: run.state)

    async def _ask(self, asked: bytes) -> tuple[int, Sequence[bytes]]:
        return self.answers

    def _watch(self, name: ModelVersion, tell: Callable[[Iterable[str]], None]) -> Callable[[], None]:
        self.tell[str(name)] = tell

        def stop() -> None:
            del self.tell[str(name)]

        return stop

    @property
    def table(self) -> RoutingTable:
        return self.rig.control.table

    @property
    def weight(self) -> int:
        split = self.table.models["digits"].split
        return 0 if split is None else round(100 * split.weight)

    def digest(self, version: str) -> str:
        return self.rig.registry.manifest("digits", version).digest


@pytest.fixture
def stage(clock: FakeClock, tmp_path: Path) -> Stage:
    return Stage(tmp_path, clock)


def look_at(run: Run) -> Look:
    return lambda: run.state


def rolling_back() -> Run:
    run = at_first_weight()
    run.hear(Rollback(at=run.at, who="anna", why="it lies"))
    return run


def aborting() -> Run:
    run = at_first_weight()
    run.hear(Abort(at=run.at, who="anna"))
    return run


class TestChecks:
    async def test_a_version_that_can_stand_in_is_no_fault(self, clock: FakeClock, stage: Stage) -> None:
        await stage.effects.check(rollout_spec(), "v1")

    async def test_one_that_is_not_there_is_named_with_those_that_are(self, clock: FakeClock, stage: Stage) -> None:
        with pytest.raises(InvalidRequest, match=r"^version: the registry has no digits@v9, .* it has v1, v2, v3$"):
            await stage.effects.check(rollout_spec(version="v9"), "v1")

    async def test_one_whose_files_are_not_as_published_is_refused(self, clock: FakeClock, stage: Stage) -> None:
        (stage.rig.registry.directory("digits", "v2") / "model.onnx").write_bytes(b"rotten")
        with pytest.raises(InvalidRequest, match=r"^version: digits@v2 can't be used: .*model\.onnx"):
            await stage.effects.check(rollout_spec(), "v1")
        (stage.rig.registry.directory("digits", "v1") / "model.onnx").write_bytes(b"rotten")
        with pytest.raises(RolloutRefused, match="digits@v1 is the stable version, but can't be used"):
            await stage.effects.check(rollout_spec(version="v3"), "v1")

    async def test_one_that_takes_other_inputs_is_refused(self, clock: FakeClock, stage: Stage) -> None:
        other = Signature((TensorSpec("z", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),), batched=True)
        publish_version(stage.rig.registry, "digits", "v4", signature=other)
        with pytest.raises(InvalidRequest, match=r"^version: digits@v4 can't answer for digits@v1: "):
            await stage.effects.check(rollout_spec(version="v4"), "v1")

    async def test_a_model_without_a_served_version_has_nothing_to_roll_out_over(
        self, clock: FakeClock, stage: Stage
    ) -> None:
        with pytest.raises(RolloutRefused, match="nothing to roll out over"):
            stage.effects.stable("digits")
        await stage.begun()
        assert stage.effects.stable("digits") == "v1"


class TestTheWayUp:
    async def test_the_canary_is_served_beside_the_stable_version(self, clock: FakeClock, stage: Stage) -> None:
        await stage.begun()
        await stage.effects.deploy(rollout_spec(), "v1")
        assert (stage.rig.served, stage.weight) == ("digits@v1* digits@v2", 0)

    async def test_what_is_arranged_again_is_told_again_and_changes_nothing(
        self, clock: FakeClock, stage: Stage
    ) -> None:
        run = at_first_weight()
        await stage.canary(run)
        before = stage.table
        assert await stage.effects.arrange(lambda: run.state) == Told(before.generation, 2, 2)
        assert (stage.table, stage.weight) == (before, 5)
        assert stage.rig.published[-2:] == [before, before]

    async def test_who_has_not_heard_of_it_is_not_counted(self, clock: FakeClock, stage: Stage) -> None:
        await stage.canary(at_first_weight())
        stage.rig.acknowledging = 1
        told = await stage.effects.arrange(lambda: at_first_weight().state)
        assert (told.acknowledged, told.gateways, told.all) == (1, 2, False)

    async def test_where_the_rollout_is_by_then_is_arranged(self, clock: FakeClock, stage: Stage) -> None:
        run = at_first_weight()
        await stage.canary(run)
        states = iter([run.state])
        run.hear(Rollback(at=run.at, who="anna"))
        await stage.effects.arrange(lambda: next(states, run.state))
        assert stage.rig.served == "digits@v1*"

    async def test_at_the_end_the_canary_is_the_stable_version_and_the_prior_one_ends(
        self, clock: FakeClock, stage: Stage
    ) -> None:
        await stage.canary(baking())
        assert (stage.rig.served, stage.weight) == ("digits@v1* digits@v2", 100)
        done = ended().state
        for _ in range(2):
            await stage.effects.remove(lambda: done, "v1")
            assert (stage.rig.served, stage.weight, stage.rig.deployer.running) == ("digits@v2*", 0, {"digits@v2"})

    async def test_a_person_who_loads_the_prior_version_again_gives_it_no_traffic(
        self, clock: FakeClock, stage: Stage
    ) -> None:
        """Though the settings still call it stable."""
        await stage.canary(baking())
        await stage.effects.remove(lambda: ended().state, "v1")
        await stage.rig.control.load("digits", asking_for("v1"))
        assert stage.rig.served == "digits@v1 digits@v2*"

    async def test_a_canary_that_is_gone_is_said(self, clock: FakeClock, stage: Stage) -> None:
        await stage.begun()
        with pytest.raises(LoadFailed, match="'digits' can't be served as digits-1 wants it"):
            await stage.effects.arrange(lambda: at_first_weight().state)


class TestTheWayBack:
    async def test_rolled_back_it_is_out_of_the_table_and_what_it_answered_is_void(
        self, clock: FakeClock, stage: Stage
    ) -> None:
        await stage.canary(at_first_weight())
        back = rolling_back()
        for _ in range(2):
            await stage.effects.arrange(lambda: back.state)
            assert stage.rig.served == "digits@v1*"
            assert stage.table.withdrawn == {stage.digest("v2"): "rolled back by anna: it lies"}
            assert stage.rig.deployer.running == {"digits@v1", "digits@v2"}, "no gateway may still ask it"
        for _ in range(2):
            await stage.effects.remove(lambda: ended(bad=10).state, "v2")
            assert stage.rig.deployer.running == {"digits@v1"}

    async def test_aborted_its_answers_stay_good(self, clock: FakeClock, stage: Stage) -> None:
        await stage.canary(at_first_weight())
        back = aborting()
        await stage.effects.arrange(lambda: back.state)
        assert (stage.rig.served, stage.table.withdrawn) == ("digits@v1*", {})
        assert stage.table.unavailable["digits@v2"] == "digits-1 was aborted"

    async def test_if_the_control_plane_dies_before_the_table_is_written_its_answers_are_void_all_the_same(
        self, clock: FakeClock, stage: Stage, tmp_path: Path
    ) -> None:
        """Also if the settings name it: at its start it is taken out of the table, and must not be forgotten then."""
        await stage.canary(at_first_weight())
        stage.rig.models = (ModelSettings(name="digits", versions=("v1", "v2"), stable="v1"),)
        stage.restarted()
        back = rolling_back()
        await stage.begun(back.state, v2="it lies")
        assert stage.digest("v2") in stage.table.withdrawn
        await stage.effects.arrange(lambda: back.state)
        assert (stage.rig.served, list(stage.table.withdrawn)) == ("digits@v1*", [stage.digest("v2")])

    async def test_and_so_they_are_if_everything_was_switched_off_meanwhile(
        self, clock: FakeClock, stage: Stage, tmp_path: Path
    ) -> None:
        await stage.canary(at_first_weight())
        stage.switched_off_and_on(tmp_path)
        back = rolling_back()
        await stage.begun(back.state, v2="it lies")
        await stage.effects.arrange(lambda: back.state)
        assert (stage.rig.served, list(stage.rig.withdrawn.read())) == ("digits@v1*", [stage.digest("v2")])

    async def test_it_waits_for_no_version_that_is_still_coming_up(self, clock: FakeClock, stage: Stage) -> None:
        """A canary that never becomes ready after a restart must not hold up its own rollback."""
        run = at_first_weight()
        await stage.canary(run)
        stage.restarted()
        stage.rig.deployer.gate = asyncio.Event()
        await stage.begun(run.state)
        run.hear(Rollback(at=run.at, who="anna"))
        async with asyncio.timeout(1.0):
            await stage.effects.arrange(lambda: run.state)
        assert stage.rig.served == "digits@v1*"
        stage.rig.deployer.gate.set()
        await settled(60)
        assert stage.rig.served == "digits@v1*", "it came up too late"

    async def test_the_stable_version_is_brought_up_if_it_had_failed(
        self, clock: FakeClock, stage: Stage, tmp_path: Path
    ) -> None:
        await stage.canary(at_first_weight())
        stage.switched_off_and_on(tmp_path)
        stage.rig.deployer.failures["digits@v1"] = LoadFailed("not now")
        back = rolling_back()
        await stage.begun(back.state, v2="it lies")
        with pytest.raises(LoadFailed):
            await stage.effects.arrange(lambda: back.state)
        del stage.rig.deployer.failures["digits@v1"]
        await stage.effects.arrange(lambda: back.state)
        assert stage.rig.served == "digits@v1*"

    @pytest.mark.parametrize("shadow", [False, True])
    async def test_what_the_settings_need_otherwise_stays_after_an_abort_and_goes_after_a_rollback(
        self, clock: FakeClock, tmp_path: Path, shadow: bool
    ) -> None:
        needs = {"shadow": ShadowSettings(version="v2")} if shadow else {"fallback": (UsePriorVersion(version="v2"),)}
        model = ModelSettings(name="digits", versions=("v1", "v2"), stable="v1", **needs)
        for back_now, over_now, left in (
            (look_at(aborting()), look_at(aborted()), {"digits@v1", "digits@v2"}),
            (look_at(rolling_back()), look_at(ended(bad=10)), {"digits@v1"}),
        ):
            stage = Stage(tmp_path / str(len(left)), clock, model)
            await stage.canary(at_first_weight())
            await stage.effects.arrange(back_now)
            await stage.effects.remove(over_now, "v2")
            assert stage.rig.deployer.running == left
            assert set(stage.table.models["digits"].versions) == {name.partition("@")[2] for name in left}
            assert (stage.table.models["digits"].stable, stage.weight) == ("v1", 0)

    async def test_a_prior_version_that_is_a_fallback_stays(self, clock: FakeClock, tmp_path: Path) -> None:
        fallback = (UsePriorVersion(version="v1"),)
        stage = Stage(
            tmp_path, clock, ModelSettings(name="digits", versions=("v1", "v3"), stable="v3", fallback=fallback)
        )
        run = Run()
        await stage.begun()
        await stage.effects.deploy(run.state.spec, "v1")
        await stage.effects.remove(lambda: running_out().state, "v1")
        assert "digits@v1" in stage.rig.deployer.running
        assert stage.table.models["digits"].stable == "v2"


def aborted() -> Run:
    run = aborting()
    run.applied()
    run.gone("v2")
    return run


def running_out() -> Run:
    """It has succeeded, and its prior version isn't known to have ended."""
    run = baking()
    for _ in range(1000):
        if run.state.over:
            return run
        run.window(canary=20, stable=0, seconds=5.0)
    raise AssertionError("no end")


class TestStarts:
    async def test_everything_was_switched_off_and_the_rollout_goes_on(
        self, clock: FakeClock, stage: Stage, tmp_path: Path
    ) -> None:
        run = at_first_weight()
        await stage.canary(run)
        stage.switched_off_and_on(tmp_path)
        await stage.begun(run.state)
        assert (stage.rig.served, stage.weight) == ("digits@v1* digits@v2", 0)
        await stage.effects.arrange(lambda: run.state)
        assert stage.weight == 5

    async def test_the_version_that_has_won_is_stable_and_the_one_it_replaced_is_not_brought_up(
        self, clock: FakeClock, stage: Stage
    ) -> None:
        await stage.begun(ended().state)
        assert stage.rig.served == "digits@v2*"

    async def test_settings_that_name_a_third_version_win(self, clock: FakeClock, tmp_path: Path) -> None:
        stage = Stage(tmp_path, clock, ModelSettings(name="digits", versions=("v3",)))
        done = ended().state
        await stage.begun(done)
        await stage.effects.arrange(lambda: done)
        assert stage.rig.served == "digits@v3*"

    async def test_but_not_while_the_rollout_goes_on(self, clock: FakeClock, tmp_path: Path) -> None:
        stage = Stage(tmp_path, clock, ModelSettings(name="digits", versions=("v3",)))
        run = at_first_weight()
        await stage.begun(run.state)
        await stage.effects.arrange(lambda: run.state)
        assert stage.rig.served == "digits@v1* digits@v2 digits@v3"
        assert stage.weight == 5

    @pytest.mark.parametrize("models", [(), (ModelSettings(name="digits", versions=("v1", "v2"), stable="v2"),)])
    async def test_a_version_that_was_rolled_back_is_not_served_also_if_the_settings_or_its_number_call_for_it(
        self, clock: FakeClock, tmp_path: Path, models: tuple[ModelSettings, ...]
    ) -> None:
        stage = Stage(tmp_path, clock)
        stage.rig.models = models
        stage.restarted()
        await stage.begun(ended(bad=10).state, v2="bad", v3="bad, too")
        assert (stage.rig.served, stage.rig.deployer.running) == ("digits@v1*", {"digits@v1"})
        marked = "digits@v2" if models else "digits@v3"  # without settings it is the highest that is called for
        assert stage.table.unavailable[marked].startswith("rolled back: bad")

    async def test_what_a_person_has_unloaded_stays_so(self, clock: FakeClock, stage: Stage) -> None:
        await stage.begun(ended().state)
        await stage.rig.control.load("digits", asking_for("v3"))
        await stage.rig.control.unload("digits", asking_for("v2"))
        stage.restarted()
        await stage.begun(ended().state)
        assert stage.rig.served == "digits@v3*"

    async def test_only_the_first_start_starts(self, clock: FakeClock, stage: Stage) -> None:
        await stage.begun()
        published = len(stage.rig.published)
        await stage.begun(at_first_weight().state)
        assert len(stage.rig.published) == published

    async def test_a_registry_that_can_not_be_listed_is_asked_again(self, clock: FakeClock, tmp_path: Path) -> None:
        stage = Stage(tmp_path, clock)
        stage.rig.models = ()
        registry = stage.rig.registry = Moody(stage.rig.registry.root)
        stage.restarted()
        stage.effects.begin(DesiredState())
        await settled(20)
        assert stage.rig.served == ""
        registry.fails = False
        await asyncio.sleep(1.1)
        await settled(60)
        assert stage.rig.served == "digits@v3*"


class Moody(Registry):
    fails = True

    def versions(self) -> list[ModelVersion]:
        if self.fails:
            raise OSError(5, "Input/output error")
        return super().versions()


class TestBlindStarts:
    async def test_the_settings_are_served_and_when_the_log_is_back_its_rollout_goes_on(
        self, clock: FakeClock, stage: Stage
    ) -> None:
        stage.effects.begin(None)
        await settled(60)
        assert stage.rig.served == "digits@v1*"
        run = at_first_weight()
        stage.effects.begin(DesiredState(rollouts={"digits": run.state}))
        await stage.effects.arrange(lambda: run.state)
        assert (stage.rig.served, stage.weight) == ("digits@v1* digits@v2", 5)

    async def test_a_version_that_was_rolled_back_goes_when_the_other_one_is_there(
        self, clock: FakeClock, tmp_path: Path
    ) -> None:
        stage = Stage(tmp_path, clock, ModelSettings(name="digits", versions=("v2",)))
        stage.effects.begin(None)
        await settled(60)
        assert stage.rig.served == "digits@v2*", "nobody knows better"
        stage.rig.published.clear()
        await stage.begun(ended(bad=10).state, v2="bad")
        assert (stage.rig.served, stage.rig.deployer.running) == ("digits@v1*", {"digits@v1"})
        assert list(stage.table.withdrawn) == [stage.digest("v2")]
        assert all("digits" in table.models for table in stage.rig.published), "something answered all the time"

    @pytest.mark.parametrize(
        ("models", "back", "served"),
        [
            ((), "v2 v3", "digits@v1*"),
            ((), "v3", "digits@v2*"),
            ((ModelSettings(name="digits", versions=("v1", "v2")),), "v2 v3", "digits@v1*"),
            ((ModelSettings(name="digits", versions=("v3", "v1", "v2")),), "v2", "digits@v1* digits@v3"),
            ((ModelSettings(name="digits", versions=("v1", "v2"), stable="v1"),), "v2", "digits@v1*"),
            ((ModelSettings(name="digits", versions=("v2",)),), "v2", "digits@v1*"),
            ((ModelSettings(name="digits", versions=("v1",)),), "v1 v2", "digits@v3*"),
            ((ModelSettings(name="digits", versions=("v2",)),), "v1 v2 v3", "digits@v2*"),
        ],
    )
    async def test_what_is_known_to_be_rolled_back_is_not_served_where_the_model_has_another_version(
        self, clock: FakeClock, tmp_path: Path, models: tuple[ModelSettings, ...], back: str, served: str
    ) -> None:
        stage = Stage(tmp_path, clock)
        stage.rig.models = models
        stage.rig.withdrawn.write({stage.digest(version): "rolled back: bad" for version in back.split()})
        stage.restarted()
        stage.effects.begin(None)
        await settled(60)
        assert stage.rig.served == served
        assert stage.rig.deployer.running == set(served.replace("*", "").split())

    async def test_what_a_person_withdrew_is_served_if_the_settings_name_it(
        self, clock: FakeClock, tmp_path: Path
    ) -> None:
        """As in any start."""
        stage = Stage(tmp_path, clock, ModelSettings(name="digits", versions=("v1", "v2")))
        stage.rig.withdrawn.write({stage.digest("v2"): UNLOADED})
        stage.restarted().begin(None)
        await settled(60)
        assert stage.rig.served == "digits@v1 digits@v2*"


class TestLooking:
    async def test_answers_that_make_no_sense_count_as_none(self, clock: FakeClock, stage: Stage) -> None:
        good = Collected("g1", 1.0, 3)
        stage.answers = (2, [collected_to_json(good), b"{", b"[]"])
        assert await stage.effects.collect(Asked()) == (2, [good])

    async def test_replicas_that_die_again_and_again_are_told_of_until_they_are_forgotten(
        self, clock: FakeClock, stage: Stage
    ) -> None:
        run = at_first_weight()
        spec = run.state.spec
        await stage.canary(run)
        assert stage.effects.breakdown(spec) == ""
        for number in range(4):
            clock.advance(1.0)
            stage.tell["digits@v2"]([f"r{number}"])
        assert stage.effects.breakdown(spec).startswith("digits@v2 crashes again and again: 3 replicas died")
        stage.effects.forget(spec)
        stage.effects.forget(spec)
        assert stage.tell == {}
        assert stage.effects.breakdown(spec) == ""

    async def test_a_canary_that_is_still_to_come_up_after_a_start_is_not_watched(
        self, clock: FakeClock, stage: Stage
    ) -> None:
        """Serve doesn't know it yet, and asking for it would keep every rollout from being looked at."""
        assert stage.effects.breakdown(rollout_spec()) == ""
        assert stage.tell == {}


async def test_a_load_that_is_cancelled_leaves_the_file_and_the_memory_the_same(clock: FakeClock, stage: Stage) -> None:
    await stage.begun()
    deploying = asyncio.create_task(stage.effects.deploy(rollout_spec(), "v1"))
    while "digits@v2" not in stage.rig.served:
        assert not deploying.done()
        await asyncio.sleep(0)
        deploying.cancel() if "digits@v2" in stage.rig.deployer.running else None
        if deploying.done():
            break
    await settled(20)
    assert stage.rig.file.read() == stage.table


async def test_the_way_to_all_requests_by_a_person_is_the_same(clock: FakeClock, stage: Stage) -> None:
    run = at_first_weight()
    await stage.canary(run)
    run.hear(Promote(at=run.at, who="anna"))
    await stage.effects.arrange(lambda: run.state)
    assert stage.weight == 100
