"""Fetch GPT-2's vocabulary, unless it is here, while there is a network."""

import argparse

from stages.runtime.settings import Settings
from stages.tokenizers.gpt2 import gpt2_ranks


def run_tool(options: argparse.Namespace, settings: Settings) -> None:
    """`python -m stages gpt2-vocabulary`."""
    gpt2_ranks()
