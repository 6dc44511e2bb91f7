"""The model store of a run: the good versions of digits, and bad ones beside them.

What can be published is published with the command `holdfast models publish`, as people do it. A version whose golden
examples don't hold is refused there, so that one is put into the store by hand. Not here: what the graphs do wrong
(`artifacts.py`).
"""

import asyncio
import hashlib
import io
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from loadtests.resilience.errors import RunError
from loadtests.resilience.system import ROOT
from loadtests.rollouts import artifacts
from loadtests.rollouts.artifacts import Change, Images

MODEL: Final = "digits"
PRIOR: Final = "v1"
BETTER: Final = "v2"
GOLDEN_BROKEN: Final = "golden-fails"
FAIL_PERCENT: Final = 30
NAN_PERCENT: Final = 50
MIXED_PERCENT: Final = 30
_GOLDEN_ROWS: Final = 4


class Made(NamedTuple):
    """A version that a run makes out of the better one. `notes` stand in its manifest."""

    change: Change
    notes: str


MADE: Final[Mapping[str, Made]] = {
    "fails-30": Made(artifacts.fails(FAIL_PERCENT), "Raises on 30 of 100 images."),
    "slow-10x": Made(artifacts.slow(), "Computes tens of milliseconds more in every run."),
    "nan-50": Made(artifacts.nan(NAN_PERCENT), "NaN for 50 of 100 images."),
    "mixes-up": Made(artifacts.mixed_up(MIXED_PERCENT), "Gives the next digit for 30 of 100 images."),
    "crashes": Made(artifacts.same, "As good as v2; the run kills its replicas."),
    "late": Made(artifacts.same, "As good as v2, until the run makes it fail."),
}
"""Those that `holdfast models publish` takes, for they do it wrong only to some inputs, or later."""


def digit_images() -> tuple[Images, list[int]]:
    """All of scikit-learn's handwritten digits, as the model takes them, and what they are."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.data / artifacts.LEVELS).astype(np.float32), [int(label) for label in digits.target]


class Answers(NamedTuple):
    """What a good network says of some images, a row for each."""

    probabilities: Images
    label: np.ndarray[Any, np.dtype[np.int64]]


def answers_of(model: Path, images: Images) -> Answers:
    """Reckoned here, with ONNX Runtime and without Holdfast."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = 1
    session = InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return Answers(*session.run(list(Answers._fields), {"image": images}))


async def make_store(source: Path, store: Path, versions: Iterable[str], images: Images) -> None:
    """A store with the good versions of `source` and those that are named. Raises `RunError`."""
    for version in (PRIOR, BETTER):
        shutil.copytree(source / MODEL / version, store / MODEL / version)
    wanted = set(versions)
    work = store.parent / "made"
    work.mkdir()
    await add_made(store, [version for version in MADE if version in wanted], images, work=work)
    if GOLDEN_BROKEN in wanted:
        put_with_broken_golden(store)


async def add_made(store: Path, versions: Sequence[str], images: Images, *, work: Path) -> None:
    """Publish these of `MADE` beside the better version that the store has. Raises `RunError`."""
    good = store / MODEL / BETTER / "model.onnx"
    golden = work / "golden.json"
    golden.write_text(json.dumps(_golden(good, images)))
    for version in versions:
        made = MADE[version]
        artifact = artifacts.spoilt(good, made.change, work / f"{version}.onnx")
        await _publish(store, artifact, version, golden, made.notes)


async def holdfast(*words: str, within_s: float = 60.0) -> tuple[int, str, str]:
    """The command `holdfast`: its exit code, what it said, and what it complained of. Raises `RunError` if it hangs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "serving.cli", *words),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within_s):
            said, complained = await process.communicate()
    except TimeoutError:
        raise RunError(f"holdfast {' '.join(words[:2])} didn't end within {within_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode(errors="replace"), complained.decode(errors="replace")


async def _publish(store: Path, artifact: Path, version: str, golden: Path, notes: str) -> None:
    words = ["models", "publish", str(artifact), "--store", str(store), "--name", MODEL, "--version", version]
    words += ["--golden", str(golden), "--deterministic", "--labels", "0,1,2,3,4,5,6,7,8,9", "--notes", notes]
    code, _, complained = await holdfast(*words)
    if code:
        raise RunError(f"{MODEL}@{version} can't be published: {complained.strip()}")


def _golden(good: Path, images: Images) -> dict[str, Any]:
    """An example that every version gets right: of images that none of them goes wrong on."""
    lucky = images[~artifacts.unlucky(images, max(FAIL_PERCENT, NAN_PERCENT))][:_GOLDEN_ROWS]
    said = answers_of(good, lucky)
    return {
        "inputs": [_tensor("image", "FP32", lucky)],
        "outputs": [_tensor("probabilities", "FP32", said.probabilities), _tensor("label", "INT64", said.label)],
    }


def _tensor(name: str, datatype: str, array: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}


def put_with_broken_golden(store: Path) -> None:
    """The better version once more, with golden examples that expect every digit to be the next one.

    Its manifest names the right digests, so nothing but running it tells.
    """
    folder = store / MODEL / GOLDEN_BROKEN
    shutil.copytree(store / MODEL / BETTER, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    golden = folder / manifest["golden"]["path"]
    with np.load(golden, allow_pickle=False) as file:
        entries = {key: file[key] for key in file.files}
    for key, array in entries.items():
        if key.endswith("outputs/label"):
            entries[key] = (array + 1) % 10
    golden.write_bytes(_npz(entries))
    manifest["version"] = GOLDEN_BROKEN
    manifest["files"] = [_with_digest(folder, entry) for entry in manifest["files"]]
    (folder / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")))


def _npz(entries: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **entries)
    return buffer.getvalue()


def _with_digest(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    raw = (folder / entry["path"]).read_bytes()
    return {**entry, "sha256": hashlib.sha256(raw).hexdigest(), "size_bytes": len(raw)}


def known_answers(store: Path, versions: Sequence[str], images: Images) -> dict[str, list[dict[str, list[float]]]]:
    """What versions that are as good as the better one answer when they answer, by `model@version`."""
    said = answers_of(store / MODEL / BETTER / "model.onnx", images)
    rows = [
        {"probabilities": probabilities.tolist(), "label": [float(label)]}
        for probabilities, label in zip(said.probabilities, said.label, strict=True)
    ]
    return {f"{MODEL}@{version}": rows for version in versions}
