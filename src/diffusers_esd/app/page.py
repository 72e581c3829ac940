"""The page: forms at the left, results at the right, and what each button calls. Needs the extra `ui`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from .desk import Desk
from .folder import is_visitor, new_visitor
from .forms import Form, compare_form, erase_form, measure_form, scale_slider, share_form
from .job import Job
from .panel import QUIET, Panel

_STYLE = Path(__file__).with_name("page.css")


def look() -> dict[str, Any]:
    """Theme and style, for Gradio's `launch`. The fonts are the system's: nothing is fetched."""
    theme = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="slate",
        radius_size="sm",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return {"theme": theme, "css_paths": [_STYLE]}


def page(desk: Desk, model: str, downloads: Path) -> gr.Blocks:
    """The page.

    Args:
        desk: What it can do.
        model: Name of the model.
        downloads: Folder of the files that browsers fetch.
    """
    with gr.Blocks(title="diffusers-esd", analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        browser = gr.BrowserState(None, storage_key="diffusers-esd", secret="diffusers-esd")
        visitor, stack = gr.State(), gr.State({})
        gr.Markdown(f"# diffusers-esd\nErase a concept from **{model}**, see what changed, and take it with you.")
        with gr.Row():
            with gr.Column(scale=2, min_width=320, elem_id="forms"):
                explicit = gr.Checkbox(label="Show explicit pictures", interactive=True, render=False)
                with gr.Tabs():
                    with gr.Tab("Erase"):
                        erase = erase_form()
                    with gr.Tab("Stack"):
                        sliders = gr.Column()
                        compare = compare_form()
                    with gr.Tab("Measure"):
                        measure = measure_form(desk.judge.name or "CLIP")
                    with gr.Tab("Share"):
                        share = share_form(is_local=desk.is_local)
                explicit.render()
                with gr.Accordion("The pipeline in Python", open=False):
                    gr.Code(desk.loading, language="python", show_label=False, interactive=False, wrap_lines=True)
            with gr.Column(scale=3, min_width=320, elem_id="results"):
                panel = Panel(desk, visitor, stack, downloads)
        _wire_erase(desk, panel, Form({**erase.fields, "explicit": explicit}, erase.buttons))
        compare = Form({**compare.fields, "explicit": explicit}, compare.buttons)
        with sliders:
            _show_sliders(desk, panel, stack, compare, measure, share)
        _enter(desk, blocks, browser, visitor, stack, panel)
    return blocks


def _wire_erase(desk: Desk, panel: Panel, form: Form) -> None:
    """Let the buttons of the first tab start jobs."""
    names, inputs = list(form.fields), list(form.fields.values())
    for button, start in (("plan", desk.plan), ("erase", desk.erase)):

        def started(visitor: str, *values: Any, start: Callable[..., Job] = start) -> Job:
            return start(visitor, dict(zip(names, values, strict=True)))

        panel.starts(form.buttons[button], started, inputs)


def _show_sliders(desk: Desk, panel: Panel, stack: gr.State, compare: Form, measure: Form, share: Form) -> None:
    """A slider for each erasure. The buttons that use them are wired anew when there are others."""

    def show(scales: Mapping[str, float]) -> None:
        if not scales:
            gr.Markdown("No erasure yet: train one in the tab “Erase”.")
        sliders = [scale_slider(name, scale) for name, scale in scales.items()]
        for name, slider in zip(scales, sliders, strict=True):
            panel.sets(slider, partial(_rescale, desk, name))

        def starts(form: Form, button: str, start: Callable[..., Job], fields: list[str] | None = None) -> None:
            used = list(form.fields) if fields is None else fields

            def started(visitor: str, *values: Any) -> Job:
                given = dict(zip(scales, values[: len(scales)], strict=True))
                return start(visitor, given, dict(zip(used, values[len(scales) :], strict=True)))

            panel.starts(form.buttons[button], started, [*sliders, *(form.fields[name] for name in used)])

        starts(compare, "compare", desk.compare)
        starts(compare, "calibrate", desk.calibrate, [])
        starts(measure, "measure", desk.measure)
        starts(share, "merge", desk.merge, ["name"])
        starts(share, "export", desk.export, ["name", "tool"])
        starts(share, "publish", desk.publish, ["repo_id", "token", "private", "sure"])

    gr.render(inputs=stack, show_progress="hidden")(show)


def _rescale(desk: Desk, name: str, visitor: str, scale: float) -> None:
    desk.rescale(visitor, name, scale)


def _enter(
    desk: Desk, blocks: gr.Blocks, browser: gr.BrowserState, visitor: gr.State, stack: gr.State, panel: Panel
) -> None:
    """Let a browser that was here before find what is its own, and give another one a new folder."""

    def enter(stored: object) -> tuple[str, str, dict[str, float]]:
        known = str(stored) if is_visitor(stored) else new_visitor()
        return known, known, desk.scales(known)

    blocks.load(enter, browser, [browser, visitor, stack], **QUIET).then(
        panel.refresh, panel.inputs, panel.outputs, **QUIET
    )
    panel.keep_fresh()
