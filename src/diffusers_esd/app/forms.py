"""The forms of the page: what a visitor fills in, and the buttons. Needs the extra `ui`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..tools import TITLES
from .training import WORDS

_OF_STACK = "Acts on the erasures of the tab “Stack”, with their scales."


@dataclass(frozen=True)
class Form:
    """Fields and buttons, by name.

    Attributes:
        fields: What is filled in.
        buttons: What can be pressed.
    """

    fields: dict[str, Any]
    buttons: dict[str, gr.Button]


def erase_form() -> Form:
    """What to erase, and how."""
    fields: dict[str, Any] = {
        "concept": gr.Textbox(interactive=True, label="Concept", placeholder="a cat", max_lines=1),
        "words": gr.Radio(
            list(WORDS),
            interactive=True,
            value=list(WORDS)[-1],
            label="It must disappear",
            info="When the prompt names it: a style, an artist. In any case: an object, nudity, violence.",
        ),
        "together": gr.Checkbox(
            interactive=True,
            label="It will act together with other erasures",
            info="Then it is erased towards a near prompt, such as “an animal” for a dog.",
        ),
        "prompts": gr.Textbox(
            interactive=True,
            label="Watch these prompts",
            placeholder="one in each line; empty: the concept",
            lines=2,
            max_lines=6,
        ),
    }
    with gr.Accordion("Advanced", open=False):
        fields["synonyms"] = gr.Textbox(
            interactive=True, label="Other words for the concept, which are not protected", lines=2
        )
        with gr.Row():
            fields["iterations"] = _field("Iterations")
            fields["rank"] = _field("Rank")
        with gr.Row():
            fields["learning_rate"] = _field("Learning rate")
            fields["eta"] = _field("Strength, eta")
        fields["seed"] = _field("Seed")
    with gr.Row():
        plan = gr.Button("What is protected?", min_width=120, size="md")
        erase = gr.Button("Erase", variant="primary", min_width=120, size="md")
    return Form(fields, {"plan": plan, "erase": erase})


def compare_form() -> Form:
    """What to draw without and with the stack."""
    fields: dict[str, Any] = {
        "prompts": gr.Textbox(interactive=True, label="Prompts", placeholder="one in each line", lines=3)
    }
    with gr.Row():
        fields["seeds"] = gr.Number(interactive=True, label="Seeds", value=2, precision=0, min_width=80)
        fields["first seed"] = gr.Number(interactive=True, label="First seed", value=0, precision=0, min_width=80)
        fields["steps"] = gr.Number(interactive=True, label="Denoising steps", value=25, precision=0, min_width=80)
    with gr.Row():
        calibrate = gr.Button("Calibrate", size="md", min_width=120)
        compare = gr.Button("Compare", size="md", variant="primary", min_width=120)
    gr.Markdown("*Calibrate* lowers the scales to what is needed when all of them act together.")
    return Form(fields, {"calibrate": calibrate, "compare": compare})


def measure_form(judge: str) -> Form:
    """How to measure.

    Args:
        judge: Who judges, in words.
    """
    gr.Markdown(
        f"Is the concept gone, however it is asked for, and did everything else stay? The suite `quick` draws the same "
        f"prompts without and with each erasure, and {judge} judges the images. {_OF_STACK}"
    )
    fields = {"steps": gr.Number(interactive=True, label="Denoising steps", value=25, precision=0)}
    return Form(fields, {"measure": gr.Button("Measure", size="md", variant="primary")})


def share_form(*, is_local: bool) -> Form:
    """How to save, export and publish.

    Args:
        is_local: Whether a token may be left out.
    """
    gr.Markdown(f"Each erasure is saved as soon as it is trained. {_OF_STACK}")
    fields: dict[str, Any] = {"name": gr.Textbox(interactive=True, label="Name", value="my-stack", max_lines=1)}
    merge = gr.Button("Save as one erasure", size="md")
    tools = [(title, tool) for tool, title in TITLES.items()]
    fields["tool"] = gr.Dropdown(tools, value="comfyui", label="Export for", interactive=True)
    export = gr.Button("Export", size="md")
    with gr.Accordion("Publish on the Hugging Face Hub", open=False):
        fields["repo_id"] = gr.Textbox(interactive=True, label="Repository", placeholder="user/name", max_lines=1)
        hint = "empty: the account that is logged in on this computer" if is_local else "of an account that can write"
        fields["token"] = gr.Textbox(interactive=True, label="Token", placeholder=hint, type="password", max_lines=1)
        fields["private"] = gr.Checkbox(interactive=True, label="Private", value=True)
        fields["sure"] = gr.Checkbox(
            interactive=True,
            label="It may be published",
            info="Anyone who has the file can load it at the scale -1, and amplify the concept.",
        )
        publish = gr.Button("Publish", size="md")
    return Form(fields, {"merge": merge, "export": export, "publish": publish})


def scale_slider(name: str, scale: float) -> gr.Slider:
    """The scale of an erasure: 0 leaves it out, 1 is the erasure as trained."""
    return gr.Slider(0, max(1.5, scale), value=scale, step=0.05, label=name, interactive=True)


def _field(label: str) -> gr.Textbox:
    """A number that may be left out: Gradio's own field for numbers sends 0 when it is empty."""
    return gr.Textbox(interactive=True, label=label, placeholder="default", max_lines=1, min_width=120)
