"""Conversion of the packaged weights to Q8_0, which llama.cpp runs faster.

llama.cpp has a tiled kernel for Q8_0 and none for Q4_1: prompt processing is 1.4 times as fast on
two AVX2 cores. A weight changes by less than 1/254 of the largest in its block of 32.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from program.errors import ModelSetupError

_FILE_TYPE_Q8_0 = 7
_WRITER_FIELDS = ("GGUF.", "general.architecture", "general.file_type")


def to_q8_0(source: Path, target: Path) -> None:
    """Write ``source`` to ``target`` with its matrices as Q8_0; takes about 5 s for 100 MB.

    The write is atomic.

    Raises:
        ModelSetupError: ``target`` cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        part = Path(name)
        try:
            _write(source, part)
            part.chmod(0o644)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ModelSetupError(f"cannot write {str(target)!r} ({error.strerror})") from error


def _write(source: Path, target: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize, quantize

    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    writer.add_file_type(_FILE_TYPE_Q8_0)
    for name, entry in reader.fields.items():
        if not name.startswith(_WRITER_FIELDS):
            inner: Any = entry.types[-1] if entry.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, entry.contents(), entry.types[0], sub_type=inner)
    for tensor in reader.tensors:
        if tensor.tensor_type in (GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        else:
            matrix = dequantize(tensor.data, tensor.tensor_type)
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, quantize(matrix, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
