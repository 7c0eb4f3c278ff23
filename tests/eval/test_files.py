import errno
import hashlib
import os

import pytest

from eval.files import explain_write_errors, sha256
from program.errors import DataError


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_checksum_covers_every_block(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "x").write_bytes(content)
    assert sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_write_error_names_path_and_reason(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(DataError) as caught, explain_write_errors(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == f"cannot write `{path}`: No space left on device"


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(ValueError, match="not a file problem"), explain_write_errors(tmp_path):
        raise ValueError("not a file problem")
