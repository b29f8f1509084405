"""What leaves this machine in a page: no secret, and no folder that names its owner."""

import pytest

from stages.report.sharing import legible, shareable


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("/home/alice/letters", "…/letters"),
        ("~alice/letters", "…/letters"),
        ("../alice/letters", "…/letters"),
        (r"C:\Users\alice\letters", "…/letters"),
        ("file:///home/alice/letters", "…/letters"),
        ("https://alice:s3cret@site.example/a?token=abcdef", "https://site.example/a?token=***"),
        ("texts/letters", "texts/letters"),
        ("**/*", "**/*"),
        ("\n\n\n", "\n\n\n"),
        ("/", "/"),
        ("weights/gpt2", "weights/gpt2"),
    ],
)
def test_folders_and_secrets_stay_here(text: str, shared: str) -> None:
    assert shareable(text) == shared
    assert shareable({"corpus": [{"path": text, "n": 3}]}) == {"corpus": [{"path": shared, "n": 3}]}


def test_what_html_does_not_allow_becomes_a_dot() -> None:
    assert legible("a\tb\r\nc\x00\x1b[0m\ud800é 　字") == "a\tb\nc··[0m·é 　字"
