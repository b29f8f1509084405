"""The page: a template filled in, in one file that loads nothing and runs nothing.

It can be emailed: pictures, colors and fonts are inside or the reader's own, and its policy
(Content-Security-Policy) forbids scripts and requests, whatever a corpus or a sample contains.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nanogpt.files import atomic_write
from stages.lib.plots import DARK, LIGHT, Theme
from stages.report.comparison import comparison_of
from stages.report.revisions import WORKSPACE, open_revision
from stages.report.run import Run, read_run
from stages.report.verdict import by_how_much, small
from stages.report.view import perplexity, view_of

TEMPLATE = "page.html"


def write_page(file: Path, names: Sequence[str]) -> None:
    """Write the page of one revision, or of several compared with each other.

    Without names, it is that of the working tree. Raises ValueError if there is no such revision,
    or if it holds no finished run; then nothing is written.
    """
    distinct = list(dict.fromkeys(names or [WORKSPACE]))
    runs = [read_run(revision) for revision in map(open_revision, distinct)]
    atomic_write(file, page_of(runs))


def page_of(runs: Sequence[Run]) -> str:
    """Return the page of a run, or of several."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # a corpus, a sample or a revision may look like HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "by_how_much": by_how_much,
        "small": small,
        "perplexity": perplexity,
    }
    environment.globals |= {"light": colors(LIGHT), "dark": colors(DARK)}
    several = len(runs) > 1
    return environment.get_template(TEMPLATE).render(
        view=None if several else view_of(runs[0]),
        comparison=comparison_of(runs) if several else None,
    )


def colors(theme: Theme) -> str:
    """Return the colors of a theme as variables of the style sheet."""
    named = {name: color for name, color in asdict(theme).items() if name != "suffix"}
    return " ".join(f"--{name}: {color};" for name, color in named.items())
