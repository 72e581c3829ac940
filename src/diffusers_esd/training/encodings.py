"""`Encodings`: the encoded prompts that the iterations need, in a file of a checkpoint.

So a resumed training does not encode, and does not need a text encoder. The last bits of an encoding depend on the
other prompts of its batch; a resumed training has the same bits. A training writes the file once; the folders of its
checkpoints share it by hard links, where the file system has them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..families import Conditioning
from ..files import HEADER_KEY, read_safetensors, write_safetensors

ENCODINGS_NAME = "encodings.safetensors"


@dataclass(frozen=True, eq=False)
class Encodings:
    """Conditionings of N prompts.

    Attributes:
        prompts: The prompts, each once.
        conditioning: The denoiser's inputs for them, (N, ...), on the CPU.
    """

    prompts: tuple[str, ...]
    conditioning: Conditioning

    def write(self, folder: Path, training: Mapping[str, Any], earlier: Path | None) -> Path:
        """Write the file, or link that of an earlier checkpoint of the training.

        Args:
            folder: The checkpoint's folder, which exists.
            training: What `identify` returned.
            earlier: The folder of an earlier checkpoint of the training; `None` if there is none.

        Returns:
            The file.

        Raises:
            OSError: If it cannot be written.
        """
        file = folder / ENCODINGS_NAME
        if earlier is not None:
            try:
                os.link(earlier / ENCODINGS_NAME, file)
                return file
            except OSError:  # another disk, a file system without hard links, or the file was deleted
                pass
        record = json.dumps({"training": _key(training), "prompts": self.prompts})
        return write_safetensors(file, self.conditioning, {HEADER_KEY: record})

    @classmethod
    def read(cls, folder: Path, training: Mapping[str, Any]) -> Encodings:
        """What `write` wrote.

        Args:
            folder: The checkpoint's folder.
            training: What `identify` returned.

        Raises:
            OSError: If the file is missing.
            ValueError: If it is damaged, or of another training.
        """
        header, conditioning = read_safetensors(folder / ENCODINGS_NAME)
        record = json.loads(header[HEADER_KEY])
        prompts = tuple(record["prompts"])
        if record["training"] != _key(training) or any(len(value) != len(prompts) for value in conditioning.values()):
            raise ValueError(f"{ENCODINGS_NAME} is of another training")
        return cls(prompts, conditioning)


def _key(training: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(training, sort_keys=True).encode()).hexdigest()
