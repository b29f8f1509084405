"""The folder of statistics and plots of the documents."""

from pathlib import Path

STATISTICS = Path("statistics")
