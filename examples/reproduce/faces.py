"""GIPHY's celebrity detector, the judge of MACE's protocol, in a Python of its own.

The detector (https://github.com/Giphy/celeb-detection-oss, MPL-2.0) needs Python 3.6 and TensorFlow 1, which cannot be
beside this package. So it runs in another process: `faces_worker.py` reads the paths of images and writes what it
found, a line each.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from diffusers_esd.evaluation.judges.base import Finding, Judge, Kind, Picture
from diffusers_esd.evaluation.judges.pixels import rgb
from diffusers_esd.evaluation.judges.weights import MissingWeightsError, sha256

PUBLISHER = "https://github.com/Giphy/celeb-detection-oss (licence: MPL-2.0)"
_WEIGHTS = Path("examples", "resources", "face_recognition", "best_model_states.pkl")


class Faces(Judge):
    """Whose face is in an image: the most probable of about 2,300 names, in lower case; nothing if there is no face.

    Args:
        detector: A clone of the detector's repository, with the weights that MACE's `metrics/README.md` links to.
        python: The Python in whose environment the detector is installed.

    Raises:
        MissingWeightsError: If the detector or its weights are not there.
        RuntimeError: If the process ends; its error is printed.
    """

    name = "giphy_celebrities"
    kind: ClassVar[Kind] = "recognises"
    question = "person"

    def __init__(self, detector: Path | None, python: Path | None) -> None:
        if detector is None or python is None or not (detector / _WEIGHTS).is_file():
            given = "is not given" if detector is None or python is None else f"has no file {_WEIGHTS}: {detector}"
            raise MissingWeightsError(
                f"The celebrity detector {given}. Clone {PUBLISHER}, install it in an environment of its own as "
                "https://github.com/Shilin-LU/MACE/tree/main/metrics says, put the weights from there into it, and "
                "give its folder as --detector and that environment's Python as --detector-python."
            )
        self._detector, self._python = detector.resolve(), python
        self._weights = sha256(detector / _WEIGHTS)
        self._process: subprocess.Popen[str] | None = None

    def record(self) -> dict[str, Any]:
        """The weights."""
        return {"detector": PUBLISHER, "weights": {"file": _WEIGHTS.name, "sha256": self._weights}}

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        """The name of the first face of each image.

        Raises:
            ValueError: If there are no images.
            RuntimeError: If the detector fails.
        """
        images = rgb([picture.image for picture in pictures])
        with TemporaryDirectory() as folder:
            found = []
            for number, image in enumerate(images):
                file = Path(folder, f"{number}.png")
                image.save(file)
                found.append(tuple(Finding(label.lower(), score) for label, score in self._ask(file)))
        return found

    def _ask(self, file: Path) -> list[tuple[str, float]]:
        """What the detector finds in a file."""
        if self._process is None:
            command = [str(self._python), str(Path(__file__).with_name("faces_worker.py"))]
            pipe, folder = subprocess.PIPE, self._detector / "examples"
            self._process = subprocess.Popen(command, cwd=folder, text=True, bufsize=1, stdin=pipe, stdout=pipe)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{file}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"The celebrity detector ended with {self._process.wait()}; its error is above.")
        return json.loads(answer)

    def close(self) -> None:
        """End the detector's process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None
