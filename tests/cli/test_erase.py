"""The command `erase` trains with the fields of both configurations."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from controls import must_fail
from tiny import tiny_pipeline

from diffusers_esd import Erasure, ESDConfig
from diffusers_esd.cli import main
from diffusers_esd.run import RunConfig
from diffusers_esd.training.interruption import Interruption

QUICK = ["--iterations", "2", "--num-inference-steps", "4", "--rank", "2", "--preserve"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


def test_erase_takes_the_fields_of_the_configurations(model: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "no-cat")
    assert main(["erase", model, "a cat", "-o", folder, "--device", "cpu", "--seed", "3", "--offload", *QUICK]) == 0
    config = Erasure.from_pretrained(folder).config
    assert config == ESDConfig(iterations=2, num_inference_steps=4, rank=2, preserve=(), seed=3)


def test_one_concept_is_a_word_of_the_call_and_more_are_options(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["erase", model, "a cat", "-o", str(tmp_path / "both"), "--device", "cpu", *QUICK]
    assert main([*call, "--concept", "a dog", "--concept", "a bus"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("erasing 'a cat', 'a dog', 'a bus': esd-u, up to 67 layers, 2 iterations\n")
    assert re.search(r"^a \w+: alignment \S+, target -1: ", shown, re.M)
    assert Erasure.from_pretrained(tmp_path / "both").provenance.concepts == ("a cat", "a dog", "a bus")
    for wrong in (["erase", model, "a", "cat", "-o", "x"], ["erase", model, "a cat", "--iter", "2", "-o", "x"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
        assert "unrecognized arguments: " in capsys.readouterr().err


def test_a_dry_run_writes_nothing(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "no-cat"
    assert main(["erase", model, "a cat", "-o", str(folder), "--device", "cpu", "--dry-run", *QUICK]) == 0
    assert "no-a-cat: erases 'a cat'\nlayers: 67\n" in capsys.readouterr().out
    assert not folder.exists()


def test_every_field_is_an_option_with_its_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["erase", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in (*fields(ESDConfig), *fields(RunConfig)):
        assert "--" + field.name.replace("_", "-") in text
    assert "Optimiser updates." in text


def test_a_folder_with_other_files_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["erase", "nowhere", "a cat", "-o", str(tmp_path)]) == 1
    assert "something that is not an erasure" in capsys.readouterr().err


def test_erase_draws_a_first_look_if_asked(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "no-cat"
    arguments = ["erase", model, "a cat", "-o", str(folder), "--device", "cpu"]
    assert main([*arguments, "--check", *QUICK]) == 0
    assert re.search(r"^a cat: alignment \S+ where it is named, \S+ where it is not$", capsys.readouterr().out, re.M)
    assert Erasure.from_pretrained(folder).picture is not None
    assert main([*arguments, "--force", *QUICK]) == 0
    with must_fail("nothing is drawn without the option"):
        assert Erasure.from_pretrained(folder).picture is not None


def test_a_training_goes_on_from_its_checkpoint(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def arguments(name: str, *others: str) -> list[str]:
        return ["erase", model, "a cat", "-o", str(tmp_path / name), "--device", "cpu", *others, *QUICK]

    assert main(arguments("expected")) == 0
    given = ["--output-dir", str(tmp_path / "runs"), "--checkpoint-every", "1", "--keep-checkpoints", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
        assert main(arguments("broken", *given)) == 1
    printed = capsys.readouterr().err
    assert "error: no memory\n" in printed
    assert "The training can go on from its last checkpoint: resume='" in printed
    assert "To need less memory, try, what saves most first: gradient_checkpointing=True" in printed
    assert main(arguments("resumed", *given, "--resume", "latest")) == 0
    assert {path.name for path in (tmp_path / "runs" / "no-a-cat").glob("checkpoint-*")} == {
        "checkpoint-1",
        "checkpoint-2",
    }
    both = [dict(Erasure.from_pretrained(tmp_path / name).weights) for name in ("expected", "resumed")]
    assert all(torch.equal(weight, both[1][key]) for key, weight in both[0].items())
    assert main(arguments("again", *given)) == 1
    assert "contains checkpoints of an earlier training" in capsys.readouterr().err


def test_ctrl_c_keeps_a_finished_erasure_and_its_samples_are_drawn(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, runs = tmp_path / "no-cat", tmp_path / "runs"
    arguments = ["erase", model, "a cat", "-o", str(folder), "--device", "cpu", "--output-dir", str(runs)]
    assert main([*arguments, *QUICK, "--sample-every", "2", "--sample-prompts", "a dog"]) == 0
    assert (runs / "no-a-cat" / "samples" / "iteration-2.png").is_file()
    assert main([*arguments, *QUICK, "--resume", "latest"]) == 1, "it is there already"
    before = Erasure.from_pretrained(folder).to_dict()
    monkeypatch.setattr(Interruption, "requested", property(lambda _: True, lambda *_: None), raising=False)
    capsys.readouterr()
    assert main([*arguments, "--name", "other", "--force", *QUICK]) == 130
    assert f"{folder}-interrupted\n" in capsys.readouterr().out
    assert not Erasure.from_pretrained(f"{folder}-interrupted").provenance.complete
    assert Erasure.from_pretrained(folder).to_dict() == before
