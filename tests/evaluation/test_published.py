"""Prompt sets that are read from their publishers' files: made-up files with the same columns and the same flaws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from diffusers_esd.evaluation.prompts import PromptSet
from diffusers_esd.evaluation.published import celebrities, coco, generic_artists, i2p

_PERCENTAGES = "inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,prompt_toxicity"
_SIZE = "sd_image_width,sd_image_height,sd_model"
_OF_ROWS = "evaluation_seed,evaluation_guidance"
I2P_OF_THE_AUTHORS = f""",prompt,categories,hard,{_PERCENTAGES},lexica_url,{_OF_ROWS},{_SIZE},case_number
0,a red house,"hate, violence",0,10.0,0.0,1.0,1.0,0.1,https://x,4294967294,7.0,512,512,sd,0
1,a blue house,sexual,0,10.0,60.0,1.0,1.0,0.1,https://x,77,12.5,512,768,sd,1
2,,"sexual, shocking",0,10.0,50.0,1.0,1.0,0.1,https://x,78,7.0,512,512,sd,2
3,a red house,shocking,0,10.0,0.5,1.0,1.0,0.1,https://x,79,7.0,512,512,sd,3
"""
I2P_OF_THE_HUB = f"""prompt,categories,hard,{_PERCENTAGES},lexica_url,sd_seed,sd_guidance_scale,{_SIZE}
a red house,sexual,0,10.0,0.0,1.0,1.0,0.1,https://x,4294967294,7,512,512,sd
"""
COCO = """image_id,source,prompt,evaluation_seed
000000203564,coco-30k,"A bicycle, and a clock.",41337
000000179765,coco-30k,"A dog sitting
",63155
000000203564,coco-30k,"A bicycle, and a clock.",7
"""
GENERIC = """case_number,data,prompt,artist,evaluation_seed
0,generic,a design of Kelly Mckernan,Kelly Mckernan,5860
1,generic,an image in the style ofa reproduction of the famous art of Ajin: Demi Human,Ajin: Demi Human,2695
2,generic,a painting of Ada Example,Ada Example,5
"""
CELEBRITIES = """,type,prompt,evaluation_seed
0,erased,A portrait of Ada Example,1
1,erased,An image capturing Ada Example at a public event,2
2,others,Ben Example in an official photo,1
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """A file with this text."""

    def write(text: str) -> Path:
        file = tmp_path / "prompts.csv"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def facts(prompts: PromptSet) -> list[tuple[str, str, int]]:
    return [(prompt.case, prompt.text, prompt.seed) for prompt in prompts]


def test_i2p_keeps_seed_guidance_and_size_of_each_row(written: Callable[[str], Path]) -> None:
    prompts = i2p(written(I2P_OF_THE_AUTHORS))
    texts = ["a red house", "a blue house", "", "a red house"]
    seeds = [4294967294, 77, 78, 79]
    assert facts(prompts) == [(str(i), text, seed) for i, (text, seed) in enumerate(zip(texts, seeds, strict=True))]
    assert [prompt.guidance_scale for prompt in prompts] == [7.0, 12.5, 7.0, 7.0]
    assert [(prompt.width, prompt.height) for prompt in prompts][:2] == [(512, 512), (512, 768)]
    assert {(prompt.group, prompt.concept) for prompt in prompts} == {("i2p", "nudity")}
    assert prompts.licence == "MIT"


def test_i2p_of_the_hub_has_other_names_of_columns(written: Callable[[str], Path]) -> None:
    (prompt,) = i2p(written(I2P_OF_THE_HUB))
    assert (prompt.case, prompt.seed, prompt.guidance_scale, prompt.width) == ("0", 4294967294, 7.0, 512)


def test_i2p_can_be_narrowed(written: Callable[[str], Path]) -> None:
    file = written(I2P_OF_THE_AUTHORS)
    assert [prompt.case for prompt in i2p(file, category="sexual")] == ["1", "2"]
    assert [prompt.case for prompt in i2p(file, category="shocking")] == ["2", "3"]
    assert [prompt.case for prompt in i2p(file, nudity_above=50)] == ["1"]
    with pytest.raises(ValueError, match="'i2p' is empty"):
        i2p(file, category="sex")  # part of the name of a category


def test_i2p_says_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"AIML-TUDA/i2p is not on this computer: give `allow_download=True`, or the path of the file; the I2P "
        r"prompts are at https://huggingface\.co/datasets/AIML-TUDA/i2p \(licence: MIT\)\.",
    ):
        i2p()
    with pytest.raises(FileNotFoundError, match=r"There is no file .*missing\.csv; the I2P prompts are at"):
        i2p(tmp_path / "missing.csv")
    with pytest.raises(ConnectionError, match="The Hub cannot be reached"):
        i2p(allow_download=True)


def test_coco_has_no_cases_of_its_own(written: Callable[[str], Path]) -> None:
    prompts = coco(written(COCO))
    assert facts(prompts) == [
        ("00000-000000203564", "A bicycle, and a clock.", 41337),
        ("00001-000000179765", "A dog sitting\n", 63155),
        ("00002-000000203564", "A bicycle, and a clock.", 7),
    ]
    assert {(prompt.group, prompt.guidance_scale) for prompt in prompts} == {("coco", 7.5)}


def test_glued_texts_are_reported_and_names_are_one(written: Callable[[str], Path]) -> None:
    with pytest.warns(UserWarning, match=r"1 of 3 prompts of .* have two texts in one; they are drawn as published"):
        prompts = generic_artists(written(GENERIC))
    assert [prompt.concept for prompt in prompts] == ["Kelly McKernan", "Ajin: Demi-Human", "Ada Example"]
    assert [prompt.labels["style"] for prompt in prompts] == [prompt.group for prompt in prompts]
    assert prompts.prompts[0].text == "a design of Kelly Mckernan"


def test_celebrities_are_found_in_their_prompts(written: Callable[[str], Path]) -> None:
    prompts = celebrities(written(CELEBRITIES))
    assert [(p.group, p.concept, p.labels["person"]) for p in prompts] == [
        ("erased", "Ada Example", "ada example"),
        ("erased", "Ada Example", "ada example"),
        ("others", "", "ben example"),
    ]
    assert "non-commercial" in prompts.licence
    with pytest.raises(ValueError, match=r"'A bust of Ada' is not made from one of MACE's five templates"):
        celebrities(written(CELEBRITIES.replace("A portrait of Ada Example", "A bust of Ada")))


def test_a_missing_file_names_publisher_and_licence(tmp_path: Path) -> None:
    for read, words in (
        (coco, r"rohitgandikota/erasing/blob/main/data/coco_30k\.csv \(licence: CC BY 4\.0"),
        (generic_artists, r"rohitgandikota/erasing/tree/main/data \(licence: MIT\)"),
        (celebrities, r"Shilin-LU/MACE/tree/main/prompts_csv \(licence: MACE's own licence, non-commercial\)"),
    ):
        with pytest.raises(FileNotFoundError, match=words):
            read(tmp_path / "missing.csv")


def test_a_file_of_something_else_is_refused(written: Callable[[str], Path]) -> None:
    file = written(COCO)
    for read, column in (
        (generic_artists, "artist"),
        (celebrities, "type"),
        (lambda path: i2p(path, category="sexual"), "categories"),
    ):
        with pytest.raises(ValueError, match=rf"has no column {column}; it has image_id, source"):
            read(file)
