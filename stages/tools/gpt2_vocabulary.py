"""Download GPT-2's vocabulary for later use offline, unless it is already cached."""

import argparse

from stages.runtime.settings import Settings
from stages.tokenizers.gpt2 import gpt2_ranks


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """Run `python -m stages gpt2-vocabulary`."""
    gpt2_ranks()
