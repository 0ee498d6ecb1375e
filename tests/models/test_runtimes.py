"""The contract of the runtimes, which each of them passes."""

import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter

from models.tiny_onnx import flatten_model
from truthloop.errors import ModelRefused
from truthloop.models.catalogue import shipped_entries
from truthloop.models.documents import CatalogueEntry, ImageInput, Pixels
from truthloop.models.load import open_runtime
from truthloop.models.prepare import prepare
from truthloop.models.runtime import Input, Outputs, Runtime

IMAGES = ("face.jpg", "grace_hopper.jpg", "cow.jpg")


def shipped(name: str) -> CatalogueEntry:
    return next(entry for entry in shipped_entries() if entry.name == name)


def same(one: Outputs, other: Outputs) -> bool:
    # Sums over several threads may differ in their last digits.
    return len(one) == len(other) and all(
        a.shape == b.shape and np.allclose(a, b, atol=1e-3) for a, b in zip(one, other, strict=True)
    )


def in_order(boxes: Any, weights: Any) -> list[np.ndarray]:
    """OpenCV's boxes as edges, the greatest weight first; its own order depends on its threads."""
    found = [
        ((x, y, x + wide, y + high), weight) for (x, y, wide, high), weight in zip(boxes, weights, strict=True)
    ]
    found.sort(key=lambda each: -float(each[1]))
    return [
        np.array([edges for edges, _ in found], np.float32).reshape(-1, 4),
        np.array([weight for _, weight in found], np.float32).reshape(-1),
    ]


class RuntimeContract(ABC):
    """What each runtime does; a subclass names its model, and runs it behind the code's back."""

    entry: CatalogueEntry

    @abstractmethod
    def raw(self, data: bytes | None, given: Input) -> list[np.ndarray]:
        """What the engine itself gives for one input, without our code."""

    @pytest.fixture
    def data(self, shared_data: Path) -> bytes | None:
        file = self.entry.file
        return (shared_data / "models" / file.name).read_bytes() if file is not None else None

    @pytest.fixture
    def runtime(self, data: bytes | None) -> Runtime:
        return open_runtime(self.entry, data)

    @pytest.fixture
    def inputs(self, photograph: Callable[[str], Pixels]) -> list[Input]:
        return [prepare(photograph(name), self.entry.input).array for name in IMAGES]

    def test_it_gives_what_the_engine_itself_gives(
        self, runtime: Runtime, data: bytes | None, inputs: list[Input]
    ) -> None:
        for given in inputs:
            assert same(runtime.run([given])[0], tuple(self.raw(data, given)))

    def test_it_answers_each_input_in_its_place(self, runtime: Runtime, inputs: list[Input]) -> None:
        alone = [runtime.run([given])[0] for given in inputs]

        together = runtime.run(inputs)

        assert [same(*pair) for pair in zip(together, alone, strict=True)] == [True] * len(inputs)
        assert not same(alone[0], alone[1])

    def test_it_takes_more_than_a_batch(self, runtime: Runtime, inputs: list[Input]) -> None:
        many = (inputs * (runtime.batch_size + 1))[: 2 * runtime.batch_size + 1]

        assert len(runtime.run(many)) == len(many)

    def test_nothing_gives_nothing(self, runtime: Runtime) -> None:
        assert runtime.run([]) == []

    def test_outputs_stay_when_the_model_runs_again(self, runtime: Runtime, inputs: list[Input]) -> None:
        first = runtime.run(inputs[:1])[0]
        kept = [output.copy() for output in first]

        runtime.run(inputs[1:2])

        assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))

    def test_inputs_are_not_changed(self, runtime: Runtime, inputs: list[Input]) -> None:
        before = [given.copy() for given in inputs]

        runtime.run(inputs)

        assert all(np.array_equal(a, b) for a, b in zip(inputs, before, strict=True))

    def test_outputs_are_numbers(self, runtime: Runtime, inputs: list[Input]) -> None:
        outputs = [output for each in runtime.run(inputs) for output in each]

        assert {output.dtype for output in outputs} == {np.dtype(np.float32)}
        assert all(np.isfinite(output).all() for output in outputs)

    def test_one_thread_gives_the_same(self, runtime: Runtime, data: bytes | None, inputs: list[Input]) -> None:
        assert same(open_runtime(self.entry, data, threads=1).run(inputs[:1])[0], runtime.run(inputs[:1])[0])

    def test_an_input_of_another_shape_is_refused(self, runtime: Runtime) -> None:
        with pytest.raises(ModelRefused, match=self.entry.name):
            runtime.run([np.zeros((5, 7, 9), np.float32)])


class LiteRtContract(RuntimeContract, ABC):
    def raw(self, data: bytes | None, given: Input) -> list[np.ndarray]:
        interpreter = Interpreter(model_content=data)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given[None])
        interpreter.invoke()
        raw = []
        for details in interpreter.get_output_details():
            output = interpreter.get_tensor(details["index"])
            scale, zero = details["quantization"]
            meant = (output.astype(np.float64) - zero) * scale if scale else output
            raw.append(meant[0] if meant.ndim > 1 else meant)
        return raw


class TestLiteRtQuantised(LiteRtContract):
    entry = shipped("mobilenet_v2")


class TestLiteRtFloat(LiteRtContract):
    entry = shipped("face_short_range")


class TestLiteRtInBatches(LiteRtContract):
    entry = shipped("selfie_segmentation")

    def test_this_model_takes_several_at_once(self, runtime: Runtime) -> None:
        assert runtime.batch_size == 4


class TestOnnxRuntime(RuntimeContract):
    entry = shipped("ultraface_rfb_320")

    def raw(self, data: bytes | None, given: Input) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return [output[0] for output in session.run(None, {"input": given[None]})]


class TestOnnxRuntimeInBatches(RuntimeContract):
    """A model whose batch may have any size."""

    entry = shipped("ultraface_rfb_320").model_copy(
        update={
            "name": "flatten",
            "file": None,
            "input": ImageInput(width=4, height=2, layout="nchw", batch=2),
        }
    )

    @pytest.fixture
    def data(self) -> bytes:
        return flatten_model(("batch", 3, 2, 4))

    def raw(self, data: bytes | None, given: Input) -> list[np.ndarray]:
        return [given.ravel()]

    def test_a_batch_of_another_size_than_the_entry_s_is_refused_where_the_model_has_one(self) -> None:
        with pytest.raises(ModelRefused, match=r"^input\.batch: the model flatten takes 1 images at once"):
            open_runtime(self.entry, flatten_model((1, 3, 2, 4)))
        with pytest.raises(ModelRefused, match=r"^file: the model flatten takes 5 images at once, never fewer"):
            open_runtime(self.entry, flatten_model((5, 3, 2, 4)))

    def test_a_model_that_mixes_its_batch_is_refused(self, inputs: list[Input]) -> None:
        mixing = open_runtime(self.entry, flatten_model(("batch", 3, 2, 4), axis=0))

        with pytest.raises(ModelRefused, match=r"^input\.batch: the model flatten mixes the images"):
            mixing.run(inputs)


class TestOpencvCascade(RuntimeContract):
    entry = shipped("opencv_faces")

    def raw(self, data: bytes | None, given: Input) -> list[np.ndarray]:
        path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"
        boxes, _, weights = cv2.CascadeClassifier(str(path)).detectMultiScale3(
            given, scaleFactor=1.1, minNeighbors=5, minSize=(24, 24), outputRejectLevels=True
        )
        return in_order(boxes, weights)


class TestOpencvHog(RuntimeContract):
    entry = shipped("opencv_people")

    def raw(self, data: bytes | None, given: Input) -> list[np.ndarray]:
        detector = cv2.HOGDescriptor()
        detector.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())
        boxes, weights = detector.detectMultiScale(given, winStride=(8, 8), padding=(8, 8), scale=1.05)
        return in_order(boxes, weights)

    def test_it_answers_each_input_in_its_place(self, runtime: Runtime, inputs: list[Input]) -> None:
        # On the first two there is nobody as a whole, so nothing tells their answers apart.
        super().test_it_answers_each_input_in_its_place(runtime, inputs[1:])


@pytest.mark.parametrize("name", ["mobilenet_v2", "ultraface_rfb_320", "opencv_faces"])
@pytest.mark.parametrize("data", [b"", b"\x00\xff\xfe", b"no model", b"<?xml version='1.0'?><opencv_storage/>"])
def test_a_file_of_something_else_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(ModelRefused, match=f"^file: .* can't load the model {name}"):
        open_runtime(shipped(name), data)


def test_an_entry_that_says_another_size_is_refused_by_its_field(shared_data: Path) -> None:
    entry = shipped("ultraface_rfb_320")
    wrong = entry.model_copy(update={"input": entry.input.model_copy(update={"width": 640})})

    with pytest.raises(ModelRefused, match=r"^input: .* shape 3×240×320, but its entry says 3×240×640"):
        open_runtime(wrong, (shared_data / "models" / "version-RFB-320.onnx").read_bytes())


def test_an_entry_that_says_another_type_is_refused_by_its_field(shared_data: Path) -> None:
    entry = shipped("face_short_range")
    wrong = entry.model_copy(update={"input": entry.input.model_copy(update={"dtype": "uint8"})})

    with pytest.raises(ModelRefused, match=r"^input\.dtype: .* takes float32, but its entry says uint8"):
        open_runtime(wrong, (shared_data / "models" / "face_detection_short_range.tflite").read_bytes())


@pytest.mark.parametrize("name", ["mobilenet_v2", "face_short_range", "ultraface_rfb_320"])
def test_a_batch_that_a_model_cannot_take_is_refused_by_its_field(name: str, shared_data: Path) -> None:
    entry = shipped(name)
    assert entry.file is not None
    wrong = entry.model_copy(update={"input": entry.input.model_copy(update={"batch": 4})})

    with pytest.raises(ModelRefused, match=r"^input\.batch: "):
        open_runtime(wrong, (shared_data / "models" / entry.file.name).read_bytes())


def test_opencv_reads_a_cascade_from_a_file() -> None:
    path = Path(cv2.__file__).parent / "data" / "haarcascade_eye.xml"
    eyes = open_runtime(shipped("opencv_faces"), path.read_bytes())

    assert len(eyes.run([np.zeros((8, 8), np.uint8)])[0]) == 2


def test_opencv_s_threads_are_set_back() -> None:
    before = cv2.getNumThreads()
    open_runtime(shipped("opencv_people"), None, threads=1).run([np.zeros((128, 64, 3), np.uint8)])

    assert cv2.getNumThreads() == before


def test_loading_writes_nothing_to_the_terminal(shared_data: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from typing import Any
from truthloop.models.catalogue import shipped_entries
from truthloop.models.load import open_runtime
for entry in shipped_entries():
    open_runtime(entry, entry.file and (Path(sys.argv[1]) / entry.file.name).read_bytes())
os.write(2, b"still there")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(shared_data / "models")], capture_output=True, text=True, check=True
    )

    assert (done.stdout, done.stderr) == ("", "still there")
