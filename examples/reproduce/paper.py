"""The figures that are printed in papers, as they are printed. Nothing here was measured by us.

`ESD`: Gandikota, Materzynska, Fiotto-Kaufman, Bau, "Erasing Concepts from Diffusion Models", arXiv:2303.07345.
"""

from __future__ import annotations

from typing import NamedTuple

ESD = "Gandikota et al. 2023, arXiv:2303.07345"


class Fidelity(NamedTuple):
    """A row of Table 1: 30,000 captions of COCO, guidance 7.5.

    Attributes:
        fid: FID; `None` for the real images.
        clip: CLIP score. The paper does not say of which CLIP.
    """

    fid: float | None
    clip: float


FIDELITY = {
    "real images": Fidelity(None, 0.1561),
    "SD 1.4": Fidelity(14.50, 0.1592),
    "SLD-Medium": Fidelity(16.90, 0.1594),
    "SLD-Max": Fidelity(18.76, 0.1583),
    "ESD-u": Fidelity(13.68, 0.1585),
    "ESD-u-3": Fidelity(17.27, 0.1586),
}
"""Table 1. In ESD-u, eta is 1; in ESD-u-3, it is 3. Both erase nudity."""


class Object(NamedTuple):
    """A row of Table 2: accuracy of a ResNet-50 in percent, 500 images of each class.

    Attributes:
        erased_sd: Of the class, images of SD 1.4.
        erased: Of the class, with ESD-u that erases it.
        others_sd: Of the other nine classes, images of SD 1.4.
        others: Of the other nine classes, with ESD-u.
    """

    erased_sd: float
    erased: float
    others_sd: float
    others: float


OBJECTS = {
    "cassette player": Object(15.6, 0.60, 85.1, 64.5),
    "chain saw": Object(66.0, 6.0, 79.6, 68.2),
    "church": Object(73.8, 54.2, 78.7, 71.6),
    "gas pump": Object(75.4, 8.6, 78.5, 66.5),
    "tench": Object(78.4, 9.6, 78.2, 66.6),
    "garbage truck": Object(85.4, 10.4, 77.4, 51.5),
    "English springer": Object(92.5, 6.2, 76.6, 62.6),
    "golf ball": Object(97.4, 5.8, 76.1, 65.6),
    "parachute": Object(98.0, 23.8, 76.0, 65.4),
    "French horn": Object(99.6, 0.4, 75.8, 49.4),
}
"""Table 2."""
OBJECTS_AVERAGE = Object(78.2, 12.6, 78.2, 63.2)

I2P_PROMPTS = 4703
NUDITY = {"SD 1.4": 796, "ESD-u": 134, "SD 2.0": 417}
"""Figure 7: exposed body parts on I2P. The text calls 796 images, but it is the sum of the classes' detections."""
NUDITY_SD = {
    "FEMALE_BREAST_EXPOSED": 278,
    "FEMALE_GENITALIA_EXPOSED": 21,
    "MALE_GENITALIA_EXPOSED": 5,
    "MALE_BREAST_EXPOSED": 22,
    "BUTTOCKS_EXPOSED": 30,
    "ARMPITS_EXPOSED": 246,
    "BELLY_EXPOSED": 157,
    "FEET_EXPOSED": 37,
}
"""Figure 7, the numbers beside the names of the classes, SD 1.4."""
NUDITY_ESD_BARS = {
    "FEMALE_BREAST_EXPOSED": 24,
    "FEMALE_GENITALIA_EXPOSED": 1,
    "MALE_GENITALIA_EXPOSED": 4,
    "MALE_BREAST_EXPOSED": 4,
    "BUTTOCKS_EXPOSED": 12,
    "ARMPITS_EXPOSED": 58.5,
    "BELLY_EXPOSED": 17.6,
    "FEET_EXPOSED": 10.9,
}
"""Figure 7, ESD-u: not printed, but computed from the lengths of the bars. Their sum is 132; the bar of the total is
drawn at 214, which does not agree with the classes or with the caption's 134."""

STYLES = {
    "original images": 3.85,
    "similar artist": 3.16,
    "SD 1.4": 3.21,
    "ESD-x": 1.12,
    "SLD": 2.00,
    "negative prompt": 2.22,
}
"""Figure 6: mean rating by 13 people, 1 to 5, of how much an image resembles the artist's. We have no people: LPIPS
and the similarity of CLIP are measured in their place, and do not compare with these."""


class Eta(NamedTuple):
    """Effect of eta, Section 5.5, in percent.

    Attributes:
        erased: Nudity that is erased on I2P.
        interference: Fall of the accuracy on 1,000 images of each class of Imagenette.
    """

    erased: float
    interference: float


ETA = {1.0: Eta(83, 7), 3.0: Eta(88, 14), 10.0: Eta(92, 34)}
"""Section 5.5, ESD-u of nudity. The tables of other parameter sets in the paper's appendix are not here."""


class Canvas(NamedTuple):
    """A row of UnlearnCanvas, in percent.

    Attributes:
        ua: Images of the target that are not recognised as it.
        ira: Accuracy of the other concepts of the same kind.
        cra: Accuracy of the other kind.
    """

    ua: float
    ira: float
    cra: float


UNLEARNCANVAS = {"style": Canvas(98.58, 80.97, 93.96), "object": Canvas(92.15, 55.78, 44.23)}
"""ESD on the leaderboard of UnlearnCanvas (arXiv:2402.11846), means over all styles or objects."""

CELEBRITIES = {
    "MACE": {10: 92.8, 50: 90.0, 100: 87.1},
    "SPEED": {10: 93.4, 50: 92.3, 100: 89.6},
    "UCE": {10: 83.0, 50: 48.0, 100: 35.0},
    "RECE": {10: 80.0, 50: 33.0, 100: 38.0},
}
"""Harmonic means of 1 - accuracy of the erased and accuracy of the others, by number of erased celebrities, as SPEED
reports them in its Tables 2 and 3. The accuracies of an erasure by ESD are not among them."""
