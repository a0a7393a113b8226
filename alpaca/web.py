"""Where pages and servers listen, and how a page of Gradio is served. Knows no page and no model."""

import socket
from typing import Any

from alpaca import console
from alpaca.errors import UserError
from alpaca.infer_config import UiConfig


def listen(host: str, port: int, key: str) -> socket.socket:
    """A socket at an address. Raises UserError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        raise UserError(
            f"{key}.host={host} {key}.port={port} cannot be listened on ({getattr(error, 'strerror', None) or error}): "
            f"give another {key}.port, or 0 for any that is free"
        ) from None
    return listener


def serve(page: Any, ui: UiConfig, keys: str, style: str) -> tuple[Any, str]:
    """Any page, in a thread of its own, and its address: `keys` is JavaScript for the keyboard, `style` CSS."""
    import gradio as gr

    listener = listen(ui.host, ui.port, "ui")
    port = listener.getsockname()[1]
    listener.close()
    if ui.user is None and (ui.share or ui.host not in ("127.0.0.1", "localhost", "::1")):
        console.warn("everyone who reaches this page can use it: give ui.user=… and ui.password=…")
    page.queue(max_size=ui.queue, default_concurrency_limit=ui.at_once, api_open=False)
    try:
        _, address, public = page.launch(
            server_name=ui.host,
            server_port=port,
            share=ui.share,
            auth=(ui.user, ui.password) if ui.user and ui.password else None,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            max_threads=max(40, ui.at_once + ui.queue + 20),
            footer_links=[],
            css=style,
            js=keys,
            theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        )
    except OSError as error:
        raise UserError(f"the page cannot be served at ui.host={ui.host} ui.port={port} ({error})") from error
    return page, public or address
