"""The embedded model equals the packaged one within the precision of Q8_0."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

from program.errors import ModelSetupError
from program.models import weights
from program.models.requantize import to_q8_0
from program.models.weights import LANGUAGE_MODEL, embedded_file, find_model, locate

Q8_0_STEP = 1 / 254
"""Half a step of 127 in each direction, as a share of the largest weight of a block."""


@pytest.fixture(scope="module")
def packaged() -> GGUFReader:
    return GGUFReader(locate(LANGUAGE_MODEL))


@pytest.fixture(scope="module")
def running() -> GGUFReader:
    return GGUFReader(embedded_file())


def test_metadata_is_unchanged(packaged: GGUFReader, running: GGUFReader) -> None:
    metadata = {
        name: entry.contents()
        for name, entry in packaged.fields.items()
        if not name.startswith("GGUF.") and name != "general.file_type"
    }
    assert len(metadata["tokenizer.ggml.tokens"]) == 49152
    assert {name: running.fields[name].contents() for name in metadata} == metadata


def test_weights_change_by_at_most_half_a_step(packaged: GGUFReader, running: GGUFReader) -> None:
    after = {tensor.name: tensor for tensor in running.tensors}
    assert list(after) == [tensor.name for tensor in packaged.tensors]
    matrices = 0
    for tensor in packaged.tensors:
        before = dequantize(tensor.data, tensor.tensor_type).reshape(-1)
        after_weights = dequantize(after[tensor.name].data, after[tensor.name].tensor_type).reshape(-1)
        if after[tensor.name].tensor_type == GGMLQuantizationType.F32:
            np.testing.assert_array_equal(after_weights, before)
            continue
        matrices += 1
        largest = np.abs(before.reshape(-1, 32)).max(axis=1, keepdims=True)
        # The scale of a block is kept as a half: one more part in 2,000.
        assert (
            np.abs(after_weights - before).reshape(-1, 32) <= largest * (Q8_0_STEP + 1 / 2000) + 1e-9
        ).all()
    assert matrices == 211


def test_failed_conversion_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.Q4_1.gguf").write_bytes(b"GGUF, broken off")
    monkeypatch.setattr(weights, "locate", lambda _: tmp_path / "model.Q4_1.gguf")
    with pytest.raises(ModelSetupError, match=r"are not converted to .* run `python -m program"):
        find_model("embedded")
    with pytest.raises((ValueError, IndexError)):
        to_q8_0(tmp_path / "model.Q4_1.gguf", tmp_path / "model.Q8_0.gguf")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.Q4_1.gguf"]


def write_model(path: Path, rows: np.ndarray) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.name", "tiny")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_tensor("norm.weight", np.array([1.0, -2.0], dtype=np.float32))
    kind = GGMLQuantizationType.Q4_1
    writer.add_tensor("matrix.weight", quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_conversion_of_a_small_model_keeps_metadata_and_vectors(tmp_path: Path) -> None:
    rows = np.linspace(-1.0, 1.0, 128, dtype=np.float32).reshape(2, 64)
    write_model(tmp_path / "in.gguf", rows)
    to_q8_0(tmp_path / "in.gguf", tmp_path / "out.gguf")
    model = GGUFReader(tmp_path / "out.gguf")
    assert model.fields["general.name"].contents() == "tiny"
    assert model.fields["general.file_type"].contents() == 7
    assert model.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
    tensors = {tensor.name: tensor for tensor in model.tensors}
    assert tensors["norm.weight"].data.tolist() == [1.0, -2.0]
    assert tensors["matrix.weight"].tensor_type == GGMLQuantizationType.Q8_0
    matrix = dequantize(tensors["matrix.weight"].data, GGMLQuantizationType.Q8_0)
    # Q4_1 has 15 steps for a block of 32 values, which spans 31/127 * 2 here; Q8_0 adds 1/254.
    assert np.abs(matrix - rows).max() < (31 / 127 * 2) / 30 + Q8_0_STEP + 1e-3


def test_conversion_replaces_an_older_file_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    write_model(tmp_path / "in.gguf", np.ones((1, 32), dtype=np.float32))
    (tmp_path / "out.gguf").write_bytes(b"old")
    to_q8_0(tmp_path / "in.gguf", tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes().startswith(b"GGUF")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.gguf", "out.gguf"]
    assert stat.S_IMODE((tmp_path / "out.gguf").stat().st_mode) == 0o644


def test_unwritable_folder_raises_setup_error(tmp_path: Path) -> None:
    write_model(tmp_path / "in.gguf", np.ones((1, 32), dtype=np.float32))
    with pytest.raises(ModelSetupError, match=r"cannot write .*out\.gguf' \(No such file or directory\)"):
        to_q8_0(tmp_path / "in.gguf", tmp_path / "missing" / "out.gguf")
