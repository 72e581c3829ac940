"""Runs in the environment of GIPHY's detector, Python 3.6: a path of an image a line in, JSON of its first face out.

The settings are those of MACE's `evaluate_by_GCD.py`.
"""

import json
import os
import sys

RESOURCES = "resources"
SIDE, MARGIN, TOP = 224, 0.2, 5


def main() -> None:
    """Answer until there are no more lines."""
    os.environ.setdefault("APP_RECOGNITION_WEIGHTS_FILE", "face_recognition/best_model_states.pkl")
    answers, sys.stdout = sys.stdout, sys.stderr  # what the packages print is not an answer
    sys.path.insert(0, os.path.dirname(os.getcwd()))

    from model_training.helpers.face_recognizer import FaceRecognizer
    from model_training.helpers.labels import Labels
    from model_training.preprocessors.face_detection.face_detector import FaceDetector
    from model_training.utils import preprocess_image
    from skimage import io

    detector = FaceDetector(RESOURCES, margin=MARGIN)
    recogniser = FaceRecognizer(labels=Labels(resources_path=RESOURCES), resources_path=RESOURCES, top_n=TOP)
    for line in sys.stdin:
        faces = detector.perform_single(io.imread(line.strip()))
        people = recogniser.perform([preprocess_image(face, SIDE) for face, _ in faces])
        first = people[0][0][:1] if people else []
        found = [(str(label).split("_[", 1)[0].replace("_", " "), float(score)) for label, score in first]
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
