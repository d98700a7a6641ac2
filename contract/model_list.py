"""The response of /v1/models, in the form of OpenAI's API, which vLLM and SGLang have, too."""

from .paths import MODELS
from .settings import Settings


def model_list(settings: Settings) -> dict:
    """Each model's id is the path after /v1/; root is the name in Load Vega's list."""
    models = [{"id": id, "object": "model", "owned_by": "segmind", "root": settings.model} for id in MODELS]
    return {"object": "list", "data": models}
