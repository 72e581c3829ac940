"""`Weights`: where the weights of a judge are, and an error that says what to do if they are nowhere.

The first of these that exists is used: the path that was passed; the folder that the environment variable
`DIFFUSERS_ESD_WEIGHTS` names; the cache of PyTorch's hub; and, only with `allow_download=True`, the publisher's server.
Without that, nothing is asked of the network.
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...files import whole

FOLDER = "DIFFUSERS_ESD_WEIGHTS"
"""Environment variable: a folder of weights, which have their publishers' file names."""

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without an answer


class MissingWeightsError(FileNotFoundError):
    """The weights of a judge are on no local path, and may not or cannot be downloaded."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A file of weights, as its publisher offers it.

    Attributes:
        file: Its name.
        publisher: Who offers it.
        licence: Its licence.
        sha256: The first digits of its SHA-256, or all; `""` if they are not known.
        url: Where it is; `""` if it cannot be downloaded without an account.
        argument: The argument that takes its path.
    """

    file: str
    publisher: str
    licence: str
    sha256: str = ""
    url: str = ""
    argument: str = "weights"

    def find(self, path: str | Path | None = None, *, allow_download: bool = False) -> Path:
        """The file.

        Args:
            path: Its path, or `None` to look for it. A file that is passed may be another than the publisher's;
                `is_own` tells.
            allow_download: Whether it may be downloaded. It is then kept in the folder of `DIFFUSERS_ESD_WEIGHTS`
                or, if that is not set, in the cache of PyTorch's hub.

        Raises:
            MissingWeightsError: If there is no such file, it cannot be downloaded, or the download was damaged.
        """
        if path is not None:
            if not Path(path).is_file():
                raise MissingWeightsError(f"`{self.argument}`: there is no file {path}. {self._remedy()}")
            return Path(path)
        for folder in folders():
            if (folder / self.file).is_file():
                return folder / self.file
        if not allow_download:
            looked = " and ".join(map(str, folders()))
            raise MissingWeightsError(f"The weights {self.file} are not in {looked}. {self._remedy()}")
        return self._download(folders()[0] / self.file)

    def is_own(self, path: Path) -> bool:
        """Whether a file is the publisher's, by its SHA-256; false if that is not known."""
        return bool(self.sha256) and sha256(path).startswith(self.sha256)

    def record(self, path: Path) -> dict[str, Any]:
        """Name and SHA-256 of a file, for a report."""
        return {"file": path.name, "sha256": sha256(path)}

    def _download(self, path: Path) -> Path:
        """Download it, whole or not at all."""
        if not self.url:
            raise MissingWeightsError(f"The weights {self.file} cannot be downloaded from here. {self._remedy()}")
        try:
            with whole(path) as temporary:
                with urllib.request.urlopen(self.url, timeout=_TIMEOUT) as answer, temporary.open("wb") as opened:
                    while chunk := answer.read(_CHUNK):
                        opened.write(chunk)
                    size, promised = opened.tell(), answer.headers["Content-Length"]
                if promised and size != int(promised):
                    raise OSError(f"the connection ended after {size} of {promised} bytes")
                if not sha256(temporary).startswith(self.sha256):
                    raise OSError(f"its SHA-256 is {sha256(temporary)}, and must begin with {self.sha256}")
        except (OSError, HTTPException) as error:  # no connection, one that breaks, no such page, no space
            raise MissingWeightsError(
                f"The weights {self.file} were not downloaded: {error}. {self._remedy()}"
            ) from error
        return path

    def _remedy(self) -> str:
        digits = f", SHA-256 {self.sha256}{'' if len(self.sha256) == 64 else '...'}" if self.sha256 else ""
        where = f"{self.publisher}{f' ({self.url})' if self.url else ''}"
        download = "; or pass `allow_download=True`" if self.url else ""
        return (
            f"Get {self.file} from {where}, licence: {self.licence}{digits}; then pass its path as `{self.argument}`, "
            f"or put it into the folder that the environment variable {FOLDER} names{download}."
        )


def folders() -> tuple[Path, ...]:
    """Where weights are looked for: the folder of `DIFFUSERS_ESD_WEIGHTS`, if set, and the cache of PyTorch's hub."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    return (Path(os.environ[FOLDER]).expanduser(), cache) if os.environ.get(FOLDER) else (cache,)


def sha256(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal digits."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors, their names, types and shapes, whatever file they are from."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def load_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a file that PyTorch saved, on the CPU. Code in the file is not run.

    Raises:
        ValueError: If it is damaged, or has anything but tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what a damaged file raises is not limited
        raise ValueError(f"{path} is damaged, or is not a file of tensors ({error}); fetch it again.") from error
