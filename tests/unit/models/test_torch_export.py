from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.backends import torch_export
from models.backends.pt2_archive import data_only
from models.backends.pt2_expressions import check_guard, check_size
from models.errors import IncompatibleRuntime, InferenceFailed, InvalidArtifact, InvalidSignature
from models.inference import Array, bf16_to_float32
from models.signature import Signature, TensorSpec

MakePt2 = Callable[..., Path]


def edited(path: Path, folder: Path, edit: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of an archive whose records were changed; their names are those below its one folder."""
    with zipfile.ZipFile(path) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    edit(records)
    copy = folder / "edited.pt2"
    with zipfile.ZipFile(copy, "w") as archive:
        for name, raw in records.items():
            archive.writestr(f"tiny/{name}", raw)
    return copy


def edit_program(edit: Callable[[str], str]) -> Callable[[dict[str, bytes]], None]:
    def change(records: dict[str, bytes]) -> None:
        before = records["models/model.json"].decode()
        after = edit(before)
        assert before != after
        records["models/model.json"] = after.encode()

    return change


def test_the_signature_has_the_names_of_parameters_and_of_the_dict_it_returns(double_pt2: Path) -> None:
    assert torch_export.read_signature(double_pt2) == Signature(
        (TensorSpec("x", "FP32", (-1, 3)),),
        (TensorSpec("twice", "FP32", (-1, 3)), TensorSpec("top", "INT64", (-1,))),
        batched=True,
    )


def test_outputs_come_in_the_order_of_the_signature_and_from_read_only_arrays(double_pt2: Path) -> None:
    read = torch_export.read_signature(double_pt2)
    backend = torch_export.load(double_pt2, Signature(read.inputs, read.outputs[::-1]), threads=1)
    array = np.frombuffer(np.array([[1, 3, 2], [6, 5, 4]], np.float32).tobytes(), np.float32).reshape(2, 3)
    top, twice = backend.run({"x": array})
    assert top.tolist() == [1, 0]
    assert twice.tolist() == [[2, 6, 4], [12, 10, 8]]
    assert backend.run({"x": array[::2]})[1].tolist() == [[2, 6, 4]]


def test_outputs_without_names_are_counted(make_pt2: MakePt2) -> None:
    path = make_pt2(lambda a, b: (a + b, a - b), torch.zeros(2, 3), torch.zeros(2, 3))
    signature = torch_export.read_signature(path)
    assert [spec.name for spec in signature.outputs] == ["output_0", "output_1"]
    assert signature.batched
    a, b = (spec.name for spec in signature.inputs)
    one = np.ones((1, 3), np.float32)
    outputs = torch_export.load(path, signature, threads=1).run({b: one, a: 3 * one})
    assert [output.tolist() for output in outputs] == [[[4, 4, 4]], [[2, 2, 2]]]


def test_inputs_inside_a_dict_find_their_place(make_pt2: MakePt2) -> None:
    path = make_pt2(lambda d: d["a"] - d["b"], {"b": torch.zeros(2), "a": torch.ones(2)}, dynamic=False)
    signature = torch_export.read_signature(path)
    assert not signature.batched
    feed = {spec.name: np.full(2, 5 if spec.name.endswith("a") else 3, np.float32) for spec in signature.inputs}
    assert torch_export.load(path, signature, threads=1).run(feed)[0].tolist() == [2, 2]


def test_bf16_is_kept_as_its_bits(make_pt2: MakePt2) -> None:
    path = make_pt2(lambda x: x + 1, torch.zeros(2, 2, dtype=torch.bfloat16))
    signature = torch_export.read_signature(path)
    assert signature.inputs[0].datatype == signature.outputs[0].datatype == "BF16"
    bits: Array = np.array([[0x3F80, 0x4000]], np.uint16)  # 1 and 2
    (answer,) = torch_export.load(path, signature, threads=1).run({signature.inputs[0].name: bits})
    assert answer.dtype == np.uint16
    assert bf16_to_float32(answer).tolist() == [[2, 3]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_other_datatypes_go_in_and_come_out(make_pt2: MakePt2, dtype: torch.dtype) -> None:
    path = make_pt2(lambda x: x.clone(), torch.zeros(2, dtype=dtype))
    signature = torch_export.read_signature(path)
    array = torch.ones(3, dtype=dtype).numpy()
    (answer,) = torch_export.load(path, signature, threads=1).run({signature.inputs[0].name: array})
    assert answer.dtype == array.dtype
    assert answer.tolist() == array.tolist()


def test_a_size_that_the_program_was_not_exported_for_is_an_inference_failure(double_pt2: Path) -> None:
    backend = torch_export.load(double_pt2, torch_export.read_signature(double_pt2), threads=1)
    for shape in ((1, 4), (65, 3)):
        with pytest.raises(InferenceFailed, match="torch: "):
            backend.run({"x": np.zeros(shape, np.float32)})
    with pytest.raises(InferenceFailed):
        backend.run({})


def test_several_threads_may_ask_at_once(double_pt2: Path) -> None:
    backend = torch_export.load(double_pt2, torch_export.read_signature(double_pt2), threads=1)
    wrong: list[int] = []

    def ask(number: int) -> None:
        question = np.full((1, 3), number, np.float32)
        wrong.extend(number for _ in range(20) if backend.run({"x": question})[0].tolist() != [[2 * number] * 3])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_size_that_a_branch_was_taken_for_is_checked(make_pt2: MakePt2) -> None:
    path = make_pt2(lambda x: x + 1 if x.shape[0] % 2 == 0 else x - 1, torch.zeros(2), dims=torch.export.Dim.AUTO)
    signature = torch_export.read_signature(path)
    backend = torch_export.load(path, signature, threads=1)
    assert backend.run({signature.inputs[0].name: np.zeros(4, np.float32)})[0].tolist() == [1, 1, 1, 1]
    with pytest.raises(InferenceFailed, match="Guard failed"):
        backend.run({signature.inputs[0].name: np.zeros(3, np.float32)})


@pytest.mark.parametrize("change", [lambda x: x.add_(1), lambda x: x.view(-1)[:1].add_(1)])
def test_a_program_that_writes_to_its_input_writes_to_a_copy(
    make_pt2: MakePt2, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    path = make_pt2(change, torch.zeros(2), dynamic=False)
    signature = torch_export.read_signature(path)
    backend = torch_export.load(path, signature, threads=1)
    array = np.zeros(2, np.float32)
    for _ in range(2):
        assert backend.run({signature.inputs[0].name: array})[0][0] == 1
    assert array.tolist() == [0, 0]


def test_a_program_that_changes_itself_is_refused(tmp_path: Path) -> None:
    class Counter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert isinstance(self.seen, torch.Tensor)
            self.seen.add_(1)
            return x + self.seen

    path = tmp_path / "counter.pt2"
    torch.export.save(torch.export.export(Counter(), (torch.zeros(2),)), path)
    with pytest.raises(InvalidArtifact, match="changes its own"):
        torch_export.load(path, torch_export.read_signature(path), threads=1)


def test_a_program_that_takes_a_number_is_refused_by_name(make_pt2: MakePt2) -> None:
    path = make_pt2(lambda x, n: x * n, torch.zeros(2), 3, dynamic=False)
    with pytest.raises(InvalidSignature, match="isn't a tensor"):
        torch_export.read_signature(path)


def test_preflight_tells_which_torch_wrote_what_this_one_cannot_read(double_pt2: Path, tmp_path: Path) -> None:
    torch_export.preflight(double_pt2)

    def newer(text: str) -> str:
        written = json.loads(text)
        written["schema_version"]["major"] += 1
        written["torch_version"] = "9.9.9"
        return json.dumps(written)

    with pytest.raises(IncompatibleRuntime, match=r"torch 9\.9\.9"):
        torch_export.preflight(edited(double_pt2, tmp_path, edit_program(newer)))


def test_a_file_of_other_bytes_is_no_program(tmp_path: Path, double_pt2: Path) -> None:
    pickled = io.BytesIO()
    torch.save({"weights": torch.zeros(2)}, pickled)
    for raw in (b"", b"not a zip", b"\x80\x04N.", double_pt2.read_bytes()[:500], pickled.getvalue()):
        path = tmp_path / "bad.pt2"
        path.write_bytes(raw)
        with pytest.raises(InvalidArtifact, match=r"bad\.pt2"):
            torch_export.preflight(path)
        with pytest.raises(InvalidArtifact, match=r"bad\.pt2"):
            torch_export.read_signature(path)


def test_example_inputs_are_a_pickle_and_never_opened(double_pt2: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    # What pickle runs on loading: os.mkdir(ran)
    trap = b"cposix\nmkdir\n(V" + str(ran).encode() + b"\ntR."

    def replace(records: dict[str, bytes]) -> None:
        assert "data/sample_inputs/model.pt" in records
        records["data/sample_inputs/model.pt"] = trap

    path = edited(double_pt2, tmp_path, replace)
    backend = torch_export.load(path, torch_export.read_signature(path), threads=1)
    assert backend.run({"x": np.ones((1, 3), np.float32)})[0].tolist() == [[2, 2, 2]]
    assert not ran.exists()


@pytest.mark.parametrize(
    "record",
    [
        "data/aotinductor/model/model.so",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "data/weights/model.pt",
        "models/other.json",
    ],
)
def test_records_that_are_code_or_pickles_are_refused_by_name(double_pt2: Path, tmp_path: Path, record: str) -> None:
    path = edited(double_pt2, tmp_path, lambda records: records.update({record: b"anything"}))
    with pytest.raises(InvalidArtifact, match=record):
        torch_export.read_signature(path)


def test_weights_that_are_pickled_are_refused(double_pt2: Path, tmp_path: Path) -> None:
    def pickle_weights(records: dict[str, bytes]) -> None:
        name = "data/weights/model_weights_config.json"
        records[name] = records[name].replace(b'"use_pickle": false', b'"use_pickle": true')

    with pytest.raises(InvalidArtifact, match="pickled object, 'weight_0'"):
        torch_export.read_signature(edited(double_pt2, tmp_path, pickle_weights))


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda t: t.replace("torch.ops.aten.mul.Tensor", "torch.ops.load_library"), "operator 'torch.ops.load_"),
        (lambda t: t.replace("torch.ops.aten.mul.Tensor", "torch.load"), "operator 'torch.load'"),
        (lambda t: t.replace("torch.ops.aten.mul.Tensor", "torch.ops.aten.from_file.default"), "operator"),
        (lambda t: t.replace("torch.ops.aten.mul.Tensor", "_operator.methodcaller"), "operator"),
        (lambda t: t.replace("Symbol('", "eval('"), "size"),
        (lambda t: t.replace("positive=True", "positive=__import__('os')"), "size"),
        (lambda t: t.replace("Symbol('", "Integer('"), "size"),
        (lambda t: t.replace("Symbol('s", "Symbol('s-"), "size"),
        (lambda t: t.replace('"guards_code": []', '"guards_code": ["exit()"]'), "guard"),
        (lambda t: t.replace('"guards_code": []', """"guards_code": ["L['x'].size()[print(1)] > 0"]"""), "guard"),
        (lambda t: t.replace('"forward_arg_names": ["x"]', '"forward_arg_names": ["x=exit()"]'), "name"),
        (lambda t: t.replace('"parameter_name": "two"', '"parameter_name": "two\\");exit()#"'), "name"),
        (lambda t: t.replace("twice", "tw'ice"), "tree of plain names"),
        (lambda t: t.replace('"name": "mul"', '"name": "mul = print(1)\\n"'), "name"),
    ],
)
def test_what_torch_would_evaluate_is_checked_first(
    double_pt2: Path, tmp_path: Path, edit: Callable[[str], str], text: str
) -> None:
    with pytest.raises(InvalidArtifact, match=text):
        torch_export.read_signature(edited(double_pt2, tmp_path, edit_program(edit)))


@pytest.mark.parametrize(
    "guard",
    [
        "L['x'].size()[0] <= 64",
        "((-1) + L['a'][0].size()[0]) == L['a'][1].size()[0]",
        "(L['a'][0].size()[0] // 2) != 1 and not L['x'].stride()[1] % 2",
        "max(1, L['x'].size()[0]) > 1.5",
    ],
)
def test_guards_that_torch_writes_may_pass(guard: str) -> None:
    check_guard(guard)


@pytest.mark.parametrize(
    "size", ["Symbol('s0', positive=True, integer=True)", "2*Max(1, Symbol('s0')) + s1", "FloorDiv(s0, 2)"]
)
def test_sizes_that_torch_writes_may_pass(size: str) -> None:
    check_size(size)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(",
        "x.y",
        "__import__",
        "lambda: 1",
        "[1]",
        "f(1)",
        "L['x']",
        "L['x'].size(1)",
        "L['x'].tofile('y')",
        "L['x'].size()['a']",
        "Symbol(s0)",
        "Symbol('a b')",
        "Add('1')",
        "(1).__class__",
        "f'{1}'",
        "(x := 1)",
        "*s0",
    ],
)
def test_other_expressions_may_not(text: str) -> None:
    with pytest.raises(InvalidArtifact):
        check_guard(text)
    with pytest.raises(InvalidArtifact):
        check_size(text)


def test_a_record_that_stands_twice_is_refused(double_pt2: Path, tmp_path: Path) -> None:
    path = edited(double_pt2, tmp_path, lambda records: records.update({"data/weights/weight_9": b"\0\0\0\0"}))
    raw = path.read_bytes()
    assert raw.count(b"weight_9") == 2  # in the record's own header and in the directory
    path.write_bytes(raw.replace(b"weight_9", b"weight_0"))
    with pytest.raises(InvalidArtifact, match="stands twice"):
        torch_export.read_signature(path)


def test_an_archive_of_data_only_holds_no_path_of_the_machine_that_made_it(double_pt2: Path, tmp_path: Path) -> None:
    clean = data_only(double_pt2)
    assert str(Path(__file__).parent).encode() in double_pt2.read_bytes()
    assert str(Path(__file__).parent).encode() not in clean
    path = tmp_path / "clean.pt2"
    path.write_bytes(clean)
    assert data_only(path) == clean
    assert torch_export.read_signature(path) == torch_export.read_signature(double_pt2)


def test_branches_and_computed_sizes_still_load(make_pt2: MakePt2) -> None:
    def forward(x: Any) -> Any:
        flat = x.reshape(x.shape[0] * 2, -1)
        return flat.reshape(x.shape[0], -1).sum(dim=-1)

    path = make_pt2(forward, torch.zeros(2, 4))
    signature = torch_export.read_signature(path)
    (answer,) = torch_export.load(path, signature, threads=1).run(
        {signature.inputs[0].name: np.ones((3, 4), np.float32)}
    )
    assert answer.tolist() == [4, 4, 4]
