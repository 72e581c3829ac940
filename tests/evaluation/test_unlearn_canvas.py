"""UA, IRA and CRA, counted by hand."""

from __future__ import annotations

import pytest
from controls import must_fail

from diffusers_esd.evaluation.unlearn_canvas import Seen, ua_ira_cra

# Two styles and two objects, two images each, of a model that should have unlearned the style Cubism.
CUBISM = [
    # asked: Cubism. Its style is still seen in one of four: UA 3/4. The objects do not count.
    Seen("Cubism", "cat", "Cubism", "cat", "Pastel"),
    Seen("Cubism", "cat", "Cubism", "dog", "Cubism"),
    Seen("Cubism", "dog", "Cubism", "cat", "Ink"),
    Seen("Cubism", "dog", "Cubism", "cat", "Pastel"),
    # asked: Pastel and Ink. Styles right: Pastel 2 of 3, Ink 1 of 1: IRA (2/3 + 1)/2 = 5/6.
    # Objects right: cat 1 of 2, dog 2 of 2: CRA (1/2 + 1)/2 = 3/4.
    Seen("Cubism", "cat", "Pastel", "cat", "Pastel"),
    Seen("Cubism", "cat", "Pastel", "dog", "Cubism"),
    Seen("Cubism", "dog", "Pastel", "dog", "Pastel"),
    Seen("Cubism", "dog", "Ink", "dog", "Ink"),
]
# A second model, which should have unlearned Ink: nothing unlearned, all kept.
INK = [Seen("Ink", "cat", "Ink", "cat", "Ink"), Seen("Ink", "dog", "Pastel", "dog", "Pastel")]


def test_a_style_counted_by_hand() -> None:
    assert ua_ira_cra(CUBISM) == pytest.approx((3 / 4, 5 / 6, 3 / 4))
    with must_fail("images that name the target are left to UA"):
        kept_with_target = [image.object == image.seen_object for image in CUBISM]
        assert ua_ira_cra(CUBISM).cra == pytest.approx(sum(kept_with_target) / len(kept_with_target))


def test_targets_count_the_same_whatever_their_number_of_images() -> None:
    assert ua_ira_cra(INK) == (0, 1, 1)
    assert ua_ira_cra([*CUBISM, *INK]) == pytest.approx((3 / 8, 11 / 12, 7 / 8))


def test_an_object_is_counted_as_a_style_with_the_domains_exchanged() -> None:
    turned = [Seen(i.target, i.style, i.object, i.seen_style, i.seen_object) for i in CUBISM]
    assert turned[0].object == "Cubism"
    assert ua_ira_cra(turned) == ua_ira_cra(CUBISM)
    with must_fail("object and style are not the same"):
        renamed = [Seen("cat", *image[1:]) for image in CUBISM]
        assert ua_ira_cra(renamed) == ua_ira_cra(CUBISM)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "There are no images to count; give at least one."),
        (
            [Seen("Ink", "cat", "Pastel", "", "")],
            "Prompts must ask for the target 'Ink' as an object or as a style, got n",
        ),
        (
            [Seen("Ink", "Ink", "Ink", "", "")],
            "Prompts must ask for the target 'Ink' as an object or as a style, got object and style",
        ),
        (INK[:1], "All prompts ask for the target 'Ink'; what is kept cannot be counted."),
        (
            [*INK, Seen("cat", "cat", "Ink", "", ""), Seen("cat", "dog", "Ink", "", "")],
            "The targets must be all objects or all styles, got {'Ink': 'style', 'cat': 'object'}; count each kind apa",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(images: list[Seen], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ua_ira_cra(images)
    assert str(caught.value).startswith(message)
