"""The embedded model equals the packaged one within the precision of Q8_0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

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
