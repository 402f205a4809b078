"""What the TensorRT backend says on a machine that cannot run it; with a GPU, what it computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mile_edge.errors import BackendError, SensorError
from mile_edge.runtime import Segmenter
from mile_edge.runtime.tensorrt.api import find_api
from mile_edge.runtime.tensorrt.device import find_device


def no_device() -> str | None:
    """Why nothing can run here, if so."""
    try:
        find_device()
    except BackendError as error:
        return str(error)
    return None


REASON = no_device()


class OnDevice:
    """As much of an array on a device as is looked at before anything is copied."""

    def __init__(self, shape: tuple[int, ...], kind: str = "|u1") -> None:
        self.__cuda_array_interface__ = {"shape": shape, "typestr": kind, "data": (0, True), "version": 3}


def test_an_unknown_backend_is_named(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="backend 'cuda' is unknown; choose onnx, tensorrt, tensorrt-rtx"):
        Segmenter.open(tiny_bundle, backend="cuda")


def test_a_missing_tensorrt_is_one_sentence() -> None:
    code = (
        "import sys; sys.modules['tensorrt'] = None; sys.modules['tensorrt_rtx'] = None\n"
        "from mile_edge.runtime.tensorrt.api import find_api\n"
        "from mile_edge.errors import BackendError\n"
        "for name in (None, 'tensorrt', 'tensorrt-rtx'):\n"
        "    try: find_api(name)\n"
        "    except BackendError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].startswith("neither tensorrt nor tensorrt_rtx is installed")
    assert "--system-site-packages" in said[1]
    assert "mile-edge[rtx]" in said[2]


def test_onnx_runtime_refuses_device_memory(tiny_bundle: Path) -> None:
    with Segmenter.open(tiny_bundle) as segmenter:
        with pytest.raises(BackendError, match="open the bundle with backend='tensorrt'"):
            segmenter(OnDevice((1, 240, 320, 3)))
        with pytest.raises(BackendError, match="open the bundle with backend='tensorrt'"):
            segmenter(np.zeros((240, 320, 3), np.uint8), on_device=True)
        with pytest.raises(SensorError, match=r"expected \(B, 240, 320, 3\) uint8; resize them on the device"):
            segmenter(OnDevice((1, 480, 640, 3)))
        with pytest.raises(SensorError, match="float32, expected"):
            segmenter(OnDevice((1, 240, 320, 3), "<f4"))
        assert segmenter(np.zeros((240, 320, 3), np.uint8)).mask.shape == (1, 240, 320)


@pytest.mark.skipif(REASON is None, reason="a CUDA device is at hand")
def test_without_a_device_the_engine_is_refused_in_one_sentence(tiny_bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    from mile_edge.bundle import Bundle
    from mile_edge.runtime.tensorrt.build import BuildOptions, build_engine

    with pytest.raises(BackendError, match="does not exist; build the engine: mile-edge build"):
        Segmenter.open(tiny_bundle, backend="tensorrt-rtx")
    build_engine(Bundle.open(tiny_bundle), find_api("tensorrt-rtx"), BuildOptions(1, capabilities=("8.9",)))
    with pytest.raises(BackendError, match=r"driver|cuda-bindings"):
        Segmenter.open(tiny_bundle, backend="tensorrt-rtx")


@pytest.mark.skipif(REASON is not None, reason=f"no CUDA device: {REASON}")
class TestOnADevice:
    """Needs a GPU that TensorRT or TensorRT-RTX serves."""

    @pytest.fixture(scope="class")
    def bundle(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The reference bundle with its engine."""
        import shutil

        from conftest import REFERENCE

        from mile_edge.bundle import Bundle
        from mile_edge.runtime.tensorrt.build import BuildOptions, build_engine

        path = tmp_path_factory.mktemp("device") / "bundle"
        shutil.copytree(REFERENCE, path)
        build_engine(Bundle.open(path), find_api(), BuildOptions())
        return path

    def test_masks_and_experts_agree_with_onnx_runtime(
        self, bundle: Path, street_frames: dict[str, np.ndarray]
    ) -> None:
        with Segmenter.open(bundle) as plain, Segmenter.open(bundle, backend=find_api().name) as engine:
            for name, frame in street_frames.items():
                # Four passes: the warm-up, the captured graph, and its replay.
                for _ in range(4):
                    wanted, found = plain(frame, stream=name), engine(frame, stream=name)
                    assert found.expert == wanted.expert
                    assert (found.mask == wanted.mask).mean() >= 0.995

    def test_every_sample_of_a_batch_has_its_own_expert(
        self, bundle: Path, street_frames: dict[str, np.ndarray]
    ) -> None:
        batch = np.stack([street_frames[name] for name in ("clear", "night", "depth", "thermal")])
        with Segmenter.open(bundle) as plain, Segmenter.open(bundle, backend=find_api().name) as engine:
            assert engine(batch).expert == plain(batch).expert

    def test_an_added_expert_leaves_the_others_bit_identical(
        self, bundle: Path, street_frames: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        import shutil

        file = tmp_path / "fog.safetensors"
        with Segmenter.open(bundle, backend=find_api().name, hysteresis=0) as engine:
            entry = engine.bundle.manifest.entry("fog")
            shutil.copy(bundle / entry.file, file)
            before = {name: engine(street_frames[name]).mask for name in ("clear", "night")}
            engine.remove_expert("fog")
            engine.add_expert(file)
            for name, mask in before.items():
                assert np.array_equal(engine(street_frames[name]).mask, mask)
            assert engine(street_frames["fog"]).expert == ("fog",)

    def test_device_memory_in_and_out(self, bundle: Path, street_frames: dict[str, np.ndarray]) -> None:
        from mile_edge.runtime.tensorrt.device import DeviceArray, Stream

        frame = street_frames["clear"][None]
        stream, array = Stream(), DeviceArray(frame.shape, np.uint8)
        stream.upload(array, np.ascontiguousarray(frame))
        stream.synchronise()
        with Segmenter.open(bundle, backend=find_api().name) as engine:
            wanted = engine(frame).mask
            found = engine(array, on_device=True)
            mask = np.empty(found.mask.shape, np.uint8)
            stream.download(mask, found.mask)
            stream.synchronise()
        assert np.array_equal(mask, wanted)
