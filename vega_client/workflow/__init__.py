"""A workflow as the browser saves it, made the prompt that POST /prompt takes.

The server never reads what the browser saves: the frontend loads it, mends what its older versions wrote and sends an answer
of its own (graphToPrompt). This does the same without a browser, and says what frontend 1.47 says, oddities included.
"""

from .prompt import is_api, to_api
from .reader import kinds

__all__ = ["is_api", "kinds", "to_api"]
