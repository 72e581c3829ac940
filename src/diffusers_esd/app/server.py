"""`served`: the app while a block runs. Needs the extra `ui`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .desk import Desk
from .folder import DOWNLOADS
from .page import look, page

_FOLDER = "GRADIO_TEMP_DIR"  # of the files that Gradio sends; there is no argument for it


@contextmanager
def served(desk: Desk, model: str, *, host: str, port: int | None) -> Iterator[str]:
    """Serve the app. At the end, a training that runs ends between two iterations, and its erasure is saved.

    Gradio may send files of `<output>/.downloads` only, nothing is sent to its makers, and there is no tunnel.

    Args:
        desk: What the page can do.
        model: Name of the model.
        host: Address to listen on.
        port: Port to listen on; `None` takes a free one.

    Yields:
        The address of the page.

    Raises:
        OSError: If the port is in use.
    """
    downloads = (desk.output / DOWNLOADS).resolve()
    downloads.mkdir(parents=True, exist_ok=True)
    before = os.environ.get(_FOLDER)
    os.environ[_FOLDER] = str(downloads)
    blocks = page(desk, model, downloads)
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size="1kb",  # the page takes no files
        **look(),
    )
    try:
        yield address
    finally:
        blocks.close(verbose=False)
        desk.jobs.close()
        if before is None:
            del os.environ[_FOLDER]
        else:
            os.environ[_FOLDER] = before
