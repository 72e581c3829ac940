"""`Encodings`: the encoded prompts that the iterations need, in a file of a checkpoint.

So a resumed training encodes nothing, and needs no text encoder. In its last bits, an encoding depends on the prompts
in its batch; a resumed training has the same bits. A training writes the file once; the folders of its checkpoints
share it by hard links, where the disk has them.
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
        conditioning: Their rows, (N, ...), on the CPU.
    """

    prompts: tuple[str, ...]
    conditioning: Conditioning

    def write(self, folder: Path, training: Mapping[str, Any], earlier: Path | None) -> Path:
        """Write the file, or link that of an earlier checkpoint of the training.

        Args:
            folder: Of the checkpoint.
            training: What `identify` returned.
            earlier: The folder of the earlier checkpoint.

        Raises:
            OSError: If it cannot be written.
        """
        file = folder / ENCODINGS_NAME
        if earlier is not None:
            try:
                os.link(earlier / ENCODINGS_NAME, file)
                return file
            except OSError:  # another disk, or one without hard links, or somebody has deleted it
                pass
        record = json.dumps({"training": _key(training), "prompts": self.prompts})
        return write_safetensors(file, self.conditioning, {HEADER_KEY: record})

    @classmethod
    def read(cls, folder: Path, training: Mapping[str, Any]) -> Encodings:
        """What `write` wrote.

        Args:
            folder: Of the checkpoint.
            training: What `identify` returned.

        Raises:
            OSError: If the file is missing.
            ValueError: If it is damaged, or of another training.
        """
        header, conditioning = read_safetensors(folder / ENCODINGS_NAME)
        record = json.loads(header[HEADER_KEY])
        prompts = tuple(record["prompts"])
        if record["training"] != _key(training) or any(len(rows) != len(prompts) for rows in conditioning.values()):
            raise ValueError(f"{ENCODINGS_NAME} is of another training")
        return cls(prompts, conditioning)


def _key(training: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(training, sort_keys=True).encode()).hexdigest()
