"""Draws pictures through Vega for ComfyUI.

    with Client("http://127.0.0.1:8188") as client:
        client.generate("a pink dawn over pine trees", seed=2).show()
        (picture,) = client.queue("workflow.json", {"KSampler.seed": 5})

AsyncClient is the same with `async with` and `await`.
"""

from .client import AsyncClient
from .errors import (
    ConnectError,
    Failed,
    GatewayError,
    Lost,
    PromptLostError,
    Refused,
    RequestError,
    VegaError,
    WorkflowError,
)
from .live import LivePicture
from .sync import Client

__all__ = ["AsyncClient", "Client", "ConnectError", "GatewayError", "LivePicture", "PromptLostError", "RequestError"]
__all__ += ["VegaError", "WorkflowError", "Failed", "Lost", "Refused"]
