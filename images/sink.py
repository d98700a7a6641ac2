"""A client in the host's own process, which takes encoded images as they are, without frames."""

from typing import Protocol, runtime_checkable

from server import PromptServer

from .encode import EncodedImage


@runtime_checkable
class ImageSink(Protocol):
    """Stands among the server's sockets, in the place of a websocket."""

    def take_images(self, images: list[EncodedImage], node_metadata: dict) -> None:
        """Called on the server's event loop; node_metadata has the keys of the host's metadata frame."""


def image_sink(server: PromptServer, client_id: str | None) -> ImageSink | None:
    """The client, if it is a sink; None for a websocket, or where nobody is connected."""
    client = server.sockets.get(client_id)
    return client if isinstance(client, ImageSink) else None
