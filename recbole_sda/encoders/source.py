"""Backbones by name or folder: what their configuration and their files say, before any weight is read."""

import hashlib
from pathlib import Path

from transformers import AutoConfig
from transformers.utils.hub import resolve_revision

from recbole_sda.encoders.families import FAMILIES, PARTS, Family
from recbole_sda.encoders.tiny import WEIGHTS_SEED, tiny_config
from recbole_sda.errors import SDAError

TINY = "tiny"
WHOLE_FILE_BYTES = 32 << 20
SAMPLED_BLOCKS, BLOCK_BYTES = 64, 1 << 16


def read_family(name: str, *, revision: str | None, local_files_only: bool, trust_remote_code: bool) -> Family:
    """The family of a backbone. Downloads the configuration only.

    Args:
        name: ``tiny``, a folder, or a name on the model hub.

    Raises:
        SDAError: it cannot be had, or is of no family that is known here, with the remedy.
    """
    config = _read_config(name, revision, local_files_only, trust_remote_code)
    part = PARTS.get(config.model_type)
    config = getattr(config, part) if part else config
    if config.model_type not in FAMILIES:
        raise SDAError(
            f"backbone={name!r} is a {config.model_type!r} model; known are {', '.join(FAMILIES)}, "
            "for example --backbone=Qwen/Qwen2.5-VL-3B-Instruct"
        )
    return Family(config)


def backbone_identity(name: str, *, revision: str | None, local_files_only: bool, trust_remote_code: bool) -> str:
    """What tells this backbone's weights from any other's, for digests. Downloads the configuration only.

    Raises:
        SDAError: as :func:`read_family`. Nothing expensive has run yet.
    """
    read_family(name, revision=revision, local_files_only=local_files_only, trust_remote_code=trust_remote_code)
    if name == TINY:
        return f"tiny, weights seed {WEIGHTS_SEED}"
    folder = Path(name).expanduser()
    if folder.is_dir():
        return f"folder {_folder_digest(folder)}"
    found = resolve_revision(name, revision, local_files_only=local_files_only)
    return f"{name}@{getattr(found, 'resolved', found) or 'main'}"


def resolve_name(name: str) -> str:
    """A folder's path with the home folder spelled out; a hub's name as it is."""
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


def _read_config(name: str, revision: str | None, local_files_only: bool, trust_remote_code: bool):
    resolved = resolve_name(name)
    if revision is not None and (name == TINY or Path(resolved).is_dir()):
        raise SDAError(
            f"backbone_revision={revision!r} says nothing about backbone={name!r}, which is not on the model hub; "
            "leave it out"
        )
    if name == TINY:
        return tiny_config()
    try:
        return AutoConfig.from_pretrained(
            resolved, revision=revision, local_files_only=local_files_only, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        at = "" if revision is None else f" at backbone_revision={revision!r}"
        raise SDAError(
            f"backbone={name!r}{at} cannot be had: {reason} "
            "Give --backbone=FOLDER with a downloaded model, or --backbone=tiny to try the road "
            "with the built-in random one."
        ) from error


def _folder_digest(folder: Path) -> str:
    """Small files whole; of weights their size and evenly spaced blocks, so that 15 GB take no minute."""
    seen = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        size = path.stat().st_size
        seen.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= WHOLE_FILE_BYTES:
                seen.update(file.read())
                continue
            for block in range(SAMPLED_BLOCKS):
                file.seek(block * (size - BLOCK_BYTES) // (SAMPLED_BLOCKS - 1))
                seen.update(file.read(BLOCK_BYTES))
    return seen.hexdigest()[:16]
