"""A whole run on the Hugging Face hub: pushed as one commit, pulled and checked.

``python -m dexml.hub push RUN OWNER/NAME`` and ``python -m dexml.hub pull OWNER/NAME RUN``
"""

from dexml import console

console.require("light", "tqdm")

# isort: split
from dexml.hub.repository import pull, push

__all__ = ["pull", "push"]
