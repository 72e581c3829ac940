"""The command `erase` trains with the fields of both configurations."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from controls import must_fail
from launched import Launcher
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


def test_the_folder_of_the_checkpoints_is_not_that_of_the_erasure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["erase", "nowhere", "a cat", "-o", str(tmp_path / "no-a-cat"), "--output-dir", str(tmp_path)]
    assert main(call) == 1
    assert "no-a-cat is also the folder of the checkpoints; give another --output-dir." in capsys.readouterr().err


def test_settings_come_from_a_file_and_quiet_prints_the_results_alone(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, first, second = tmp_path / "run.yaml", tmp_path / "first", tmp_path / "second"
    file.write_text("iterations: 2\nnum_inference_steps: 4\nrank: 2\npreserve: []\nseed: 3\n")
    call = ["erase", model, "a cat", "--device", "cpu"]
    capfd.readouterr()
    assert main([*call, "-o", str(first), "--config", str(file), "--quiet"]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert [line.partition(":")[0] for line in printed.out.splitlines()] == [str(first), "a cat"]
    config = Erasure.from_pretrained(first).config
    assert config == ESDConfig(iterations=2, num_inference_steps=4, rank=2, preserve=(), seed=3)
    assert main([*call, "-o", str(second), "--config", str(first), "--rank", "3"]) == 0
    assert Erasure.from_pretrained(second).config == replace(config, rank=3)
    assert "100%" in capfd.readouterr().err


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


# Many concepts.


def test_each_concept_of_a_file_gets_an_erasure(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "concepts.txt", tmp_path / "all"
    file.write_text("# animals\na cat\n\na dog\n")
    call = ["erase", model, "--concepts", str(file), "-o", str(folder), "--device", "cpu", *QUICK]
    assert main([*call, "--dry-run"]) == 0
    assert re.findall(r"^no-a-\w+: erases '(.*)'$", capsys.readouterr().out, re.M) == ["a cat", "a dog"]
    assert not folder.exists()
    assert main(call) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(";")[0] for line in lines[:2]] == ["a cat: trained", "a dog: trained"]
    assert lines[2].split() == ["concept", "folder", "status", "seconds", "outcome"]
    assert [line.split()[:4] for line in lines[3:]] == [
        ["a", word, str(folder / f"no-a-{word}"), "trained"] for word in ("cat", "dog")
    ]
    assert Erasure.from_pretrained(folder / "no-a-dog").provenance.concepts == ("a dog",)
    file.write_text("a cat\na pig\n")
    (tmp_path / "runs" / "no-a-pig" / "checkpoint-1").mkdir(parents=True)
    assert main([*call, "--output-dir", str(tmp_path / "runs")]) == 1
    printed = capsys.readouterr()
    assert "a cat: there; alignment" in printed.out
    assert "a pig: failed; FileExistsError: " in printed.out
    assert printed.err.endswith("error: 1 of 2 concepts failed.\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "one of the arguments concept --concepts --prompts is required"),
        (["a cat", "--concepts", "file"], 2, "not allowed with argument"),
        (["--concepts", "{file}", "--name", "x"], 1, "error: --concepts gives each concept an adapter and a name"),
        (["--concepts", "{file}", "--concept", "x"], 1, "error: --concepts gives each concept an adapter and a name"),
        (["--concepts", "{file}", "--force"], 1, "error: --force cannot be used with --concepts; delete the folders"),
        (["--concepts", "nowhere.txt"], 1, "error: There is no file nowhere.txt"),
        (["--concepts", "{twice}"], 1, "has 'a cat' in lines 1 and 2; remove one of them."),
        (["--concepts", "{names}"], 1, "error: 'a cat' and 'A cat' would have the same name, 'no-a-cat'"),
    ],
)
def test_wrong_calls_are_refused_before_the_model_is_loaded(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {name: str(tmp_path / name) for name in ("file", "twice", "names")}
    for name, content in (("file", "a cat\n"), ("twice", "a cat\na cat\n"), ("names", "a cat\nA cat\n")):
        (tmp_path / name).write_text(content)
    call = ["erase", "nowhere", *(argument.format(**paths) for argument in arguments), "-o", str(tmp_path / "all")]
    try:
        status = main(call)
    except SystemExit as ended:
        status = ended.code  # type: ignore[assignment]
    assert status == code
    assert message in capsys.readouterr().err


# Processes of a launcher.


def called(arguments: list[str]) -> tuple[int, str]:
    """The exit code of the command, and what it prints."""
    printed = StringIO()
    with redirect_stdout(printed):
        return main(arguments), printed.getvalue()


def test_one_of_several_processes_prints_and_saves(model: str, launcher: Launcher, tmp_path: Path) -> None:
    folder = tmp_path / "no-cat"
    call = ["erase", model, "a cat", "-o", str(folder), "--device", "cpu", *QUICK]
    planned, nothing = launcher.run(tmp_path / "0", called, arguments=[*call, "--dry-run"])
    assert planned[1].startswith("no-a-cat: erases 'a cat'\n")
    assert nothing == (0, "")
    first, second = launcher.run(tmp_path / "1", called, arguments=call)
    assert first[0] == 0
    assert first[1].startswith("erasing 'a cat': esd-u, up to 67 layers, 2 iterations\n")
    assert second == (0, "")
    assert Erasure.from_pretrained(folder).provenance.processes == 2


def test_processes_share_the_concepts_of_a_file(model: str, launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "concepts.txt").write_text("a cat\na dog\na pig\n")
    call = ["erase", model, "--concepts", str(tmp_path / "concepts.txt"), "-o", str(tmp_path / "all")]
    first, second = launcher.run(tmp_path / "messages", called, arguments=[*call, "--device", "cpu", *QUICK])
    assert re.findall(r"^(a \w+): trained", first[1], re.M) == ["a cat", "a pig"]
    assert re.findall(r"no-(a-\w+) +trained", first[1]) == ["a-cat", "a-dog", "a-pig"], "the table has all"
    assert re.fullmatch(r"a dog: trained; .*\n", second[1])
    assert Erasure.from_pretrained(tmp_path / "all" / "no-a-dog").provenance.processes == 1


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_start_the_command(name: str, model: str, tmp_path: Path) -> None:
    call = ["-m", "diffusers_esd", "erase", model, "a cat", "-o", str(tmp_path / "no-cat"), "--device", "cpu", *QUICK]
    call += ["--check"] if name == "accelerate" else []
    ended = subprocess.run([sys.executable, "-m", *LAUNCHERS[name], *call], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("erasing 'a cat'") == 1
    erasure = Erasure.from_pretrained(tmp_path / "no-cat")
    assert erasure.provenance.processes == 2
    assert (erasure.picture is not None) is (name == "accelerate")


def test_prompts_of_another_tool_are_erased(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(
        "- {target: a cat, unconditional: an animal, guidance_scale: 2.0}\n- {target: a rose, guidance_scale: 2}\n"
    )
    call = ["erase", model, "-o", str(tmp_path / "both"), "--device", "cpu", "--prompts", str(file), *QUICK]
    assert main([*call, "--seed", "5"]) == 0
    erasure = Erasure.from_pretrained(tmp_path / "both")
    assert erasure.provenance.concepts == ("a cat", "a rose")
    assert erasure.config is not None
    assert (erasure.config.eta, erasure.config.anchor, erasure.config.seed) == (2.0, ("an animal", ""), 5)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["erase", model, "a dog", *call[2:]])
    assert "not allowed with argument" in capsys.readouterr().err
    file.write_text("- {target: a cat, action: enhance}\n")
    assert main(["erase", "nowhere", "-o", str(tmp_path / "x"), "--prompts", str(file)]) == 1
    assert "entry 1: `action` must be 'erase', got 'enhance'" in capsys.readouterr().err
