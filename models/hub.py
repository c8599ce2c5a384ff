"""Where a checkpoint is: in a folder, shipped with the program, or on the Hugging Face Hub."""

import hashlib
import logging
import os.path
import re
from dataclasses import dataclass
from pathlib import Path

from unmask import weights
from unmask.errors import closest
from unmask.models.checkpoint import INDEX_FILE
from unmask.models.errors import CheckpointError, first_line, require_regular
from unmask.models.lora import CONFIG_FILE, WEIGHTS_FILE
from unmask.models.presets import find_preset, preset_names

log = logging.getLogger(__name__)

# All that is needed beside the weights. No Python file is ever fetched.
SMALL_FILES = (
    "config.json",
    INDEX_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
SHA256 = re.compile(r"[0-9a-f]{64}")
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@dataclass(frozen=True)
class Source:
    """A checkpoint that was found.

    name    what the API calls it: the Hub id, or the name of the folder
    folder  holds config.json and the tokenizer; of one on the Hub, the weights come with `fetch_weights`
    """

    name: str
    folder: Path
    on_hub: bool


def locate(source: str, revision: str | None = None) -> Source:
    """Find a checkpoint; of one on the Hub, download what is small, so that it can be refused before 16 GB are fetched.

    Raises CheckpointError if `source` is none of the three, or the Hub does not give it.
    """
    if (folder := find_folder(source)) is not None:
        return _local(folder, revision)
    return Source(source, _download(source, revision, list(SMALL_FILES)), on_hub=True)


def find_folder(source: str) -> Path | None:
    """The folder of a local checkpoint, or None of a Hub id or a preset for one.

    Raises CheckpointError if `source` is nothing of that.
    """
    if (folder := _folder(source)) is not None:
        return folder
    shipped, file = weights.find(source), Path(os.path.expanduser(source))
    if shipped is None and find_preset(source) is None and (file.exists() or not HUB_ID.fullmatch(source)):
        near = closest(source, preset_names())
        hint = f"did you mean {near!r}?" if near else "`unmask models` lists the presets"
        raise CheckpointError(f"model {source!r} is no folder, no preset and no Hub id (owner/name); {hint}")
    return shipped


def _folder(text: str) -> Path | None:
    """The folder of this path, if there is one; nothing is no path. Raises CheckpointError for what can be no path."""
    path = Path(os.path.expanduser(text))
    try:
        return path.resolve() if text and path.is_dir() else None
    except OSError as error:
        raise CheckpointError(
            f"{text[:60]!r}... can be no folder and no Hub id: {error.strerror}; give a folder's path, or owner/name"
        ) from error


def locate_adapter(text: str) -> tuple[Path, str]:
    """The folder of an adapter, and its name, from `FOLDER-or-Hub-id` or the same with `=name`.

    Without a name it has that of the folder, or the Hub id. Raises CheckpointError if there is no such adapter.
    """
    before, equals, after = text.rpartition("=")
    named = equals and _folder(text) is None  # a path may hold =, too
    source, name = (before, after) if named else (text, "")
    if (folder := _folder(source)) is not None:
        return folder, name or folder.name
    if Path(os.path.expanduser(source)).exists() or not HUB_ID.fullmatch(source):
        raise CheckpointError(f"adapter {source!r} is no folder and no Hub id (owner/name)")
    return _download(source, None, [CONFIG_FILE, WEIGHTS_FILE]), name or source


def fetch_weights(source: Source, files: list[str]) -> None:
    """Download these files into the source's folder, from the same commit even if the branch has moved.

    Raises CheckpointError if the Hub does not give them all.
    """
    if not source.on_hub:
        return
    log.info("fetching what is not yet there of the weights of %s", source.name)
    folder = _download(source.name, source.folder.name, files)
    missing = [name for name in files if not (folder / name).exists()]
    if not missing:
        return
    if len(missing) == len(files):
        raise CheckpointError(
            f"model {source.name!r} has no safetensors weights on the Hub; choose one that has, or convert them"
        )
    raise CheckpointError(
        f"model {source.name!r} lacks {missing[0]} on the Hub, though its index names it; ask its publisher"
    )


def verify_weights(source: Source, files: list[str]) -> None:
    """Check the bytes of these files in the source's folder by the SHA-256 that the Hub states of each.

    Raises CheckpointError for other bytes, for a source that is not on the Hub, and if the Hub states none.
    """
    if not source.on_hub:
        raise CheckpointError(f"{source.name!r} is a folder, of whose bytes nobody states a hash; leave --verify out")
    stated = _stated_hashes(source, files)
    for name in files:
        log.info("checking the bytes of %s", name)
        with (source.folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != stated[name]:
            raise CheckpointError(
                f"{name} of {source.name!r} has other bytes than the Hub states: its SHA-256 is {found[:12]}..., not "
                f"{stated[name][:12]}...; delete {(source.folder / name).resolve()} and load the model again"
            )


def _stated_hashes(source: Source, files: list[str]) -> dict[str, str]:
    """The SHA-256 of each file: the Hub's cache names a blob by it when it is downloaded, else the Hub is asked."""
    blobs = {name: (source.folder / name).resolve().name for name in files}
    stated = {name: blob for name, blob in blobs.items() if SHA256.fullmatch(blob)}
    if unknown := [name for name in files if name not in stated]:
        stated |= _ask_for_hashes(source, unknown)
    if missing := [name for name in files if name not in stated]:
        raise CheckpointError(f"the Hub states no SHA-256 of {missing[0]} of {source.name!r}; leave --verify out")
    return stated


def _ask_for_hashes(source: Source, files: list[str]) -> dict[str, str]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    try:
        infos = HfApi().get_paths_info(source.name, files, revision=source.folder.name)
    except Exception as error:  # network, disk and proxy errors come in many types
        raise CheckpointError(
            f"the Hub cannot be asked for the hashes of {source.name!r}: {first_line(error)}; try again, or leave "
            "--verify out"
        ) from error
    return {one.path: one.lfs.sha256 for one in infos if isinstance(one, RepoFile) and one.lfs is not None}


def _local(folder: Path, revision: str | None) -> Source:
    if folder.name in preset_names() and not (folder / "config.json").exists():
        raise CheckpointError(
            f"the folder {folder} has no config.json, and comes before the preset of its name; run this in another "
            f"folder for the preset, or give the folder of a checkpoint"
        )
    if revision is not None:
        raise CheckpointError(f"revision {revision!r} is for Hub ids and {folder.name!r} is a folder; leave it out")
    for name in SMALL_FILES:
        require_regular(folder / name)
    return Source(folder.name, folder, on_hub=False)


def _download(repository: str, revision: str | None, files: list[str]) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=files))
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"model {repository!r} has no revision {revision!r} on the Hub") from error
    except errors.GatedRepoError as error:
        raise CheckpointError(f"model {repository!r} is gated; accept its terms and run `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"model {repository!r} is no folder and not on the Hub; if it is private, run `hf auth login`"
        ) from error
    except Exception as error:  # network, disk and proxy errors come in many types; each ends the load
        raise CheckpointError(
            f"model {repository!r} cannot be fetched from the Hub: {first_line(error)}; run it again "
            "to continue the download, or give a folder"
        ) from error
