import pytest

from stages.download.markup import html_text, markdown_text

SONG = """# The *Sea*

First line of the verse,
second line & a third<br>and a fourth
**Chorus:** la [la](https://example.org) la ![a picture](wave.png)

Last ~~words~~ line
"""


def test_a_song_in_markdown_keeps_its_lines_and_loses_its_marks() -> None:
    assert markdown_text(SONG) == (
        "The Sea\n\n"
        "First line of the verse,\nsecond line & a third\nand a fourth\nChorus: la la la\n\n"
        "Last words line"
    )


def test_lists_quotes_and_tables_keep_their_shape() -> None:
    assert markdown_text("* one\n* two\n    * three\n") == "  * one\n  * two\n      + three"
    assert markdown_text("1. one\n2. two\n") == " 1. one\n 2. two"
    assert markdown_text("> one\n> two\n") == "one\ntwo"
    assert markdown_text("| a | b |\n|---|---|\n| long one | 2 |\n") == "a         b\nlong one  2"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("24. May\n\n27. May", "24. May\n\n27. May"),
        ("24. May\nup late\n\n1986. A year", "24. May\n    up late\n\n1986. A year"),
        ("3) three\n4) four", " 3. three\n 4. four"),
        ("<ol start=7><li>seven<li>eight</ol>", " 7. seven\n 8. eight"),
    ],
)
def test_a_list_keeps_its_numbers(source: str, expected: str) -> None:
    assert markdown_text(source) == expected


@pytest.mark.parametrize(
    "words",
    [
        "[Chorus]:\nHallelujah",
        "[Chorus]: Hallelujah\nla la",
        "[Verse 2]: hello.\n\nla",
        "[Anna]: yes\n[Ben]: no",
        "[Bridge]: and/or",
    ],
)
def test_words_after_a_name_in_brackets_are_no_link(words: str) -> None:
    assert markdown_text(words) == words


@pytest.mark.parametrize(
    "target", ["https://a.org/b", "<b c>", "./b.md", "/b", "#b", "a.org", "b.md 'Title'"]
)
def test_definitions_of_links_are_no_text(target: str) -> None:
    assert markdown_text(f"see [here][x] and [x]\n\n[x]: {target}") == "see here and x"


def test_what_is_preformatted_keeps_its_white_space() -> None:
    assert markdown_text("    indented\n      more\n\n    last\n") == "indented\n  more\n\nlast"
    assert markdown_text("```\nx = 1\n\n  y\n```\n") == "x = 1\n\n  y"
    assert html_text("<pre>one <b>bold\n  two</b>\n\nthree</pre>") == "one bold\n  two\n\nthree"


def test_html_inside_markdown_is_html() -> None:
    assert markdown_text("a <!-- note --> b\n\n<script>var x</script>\n\n&eacute; <b>c</b>") == (
        "a b\n\né c"
    )


@pytest.mark.parametrize(
    "front",
    [
        "---\ntitle: Sea\n---\n",
        "---\r\ntitle: Sea\r\ntags:\r\n  - a\r\n- b\r\n# note\r\n---\r\n",
        "---\ntitle: Sea\n\tx\n---\n",
    ],
)
def test_front_matter_is_no_text(front: str) -> None:
    assert markdown_text(front + "Text\n\n---\n\nmore: text\n\n---\n") == "Text\n\nmore: text"


@pytest.mark.parametrize(
    "song", ["---\nHe said: go\n---\nmore", "---\nla la\n---\nmore", "text\n---\na: b\n---\n"]
)
def test_lines_between_rules_are_text_unless_they_are_front_matter(song: str) -> None:
    for line in song.split("\n"):
        assert line.strip("-") in markdown_text(song)


PAGE = """<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html><html><head><title>Shop</title><meta charset="iso-8859-1">
<style>p {color: red}</style><script>var hidden = 1;</script></head>
<body><h1>Poem</h1><p>One <b>bold</b>, <i>it</i>alic.<br>Line
two</p><div>a</div><div>b</div><section>c</section>
<p>caf\u00e9 &lt;tag&gt;&nbsp;&eacute;<script>more()</script></p>
<p style="display:none">unseen</p><template>unseen</template><!-- unseen --></body></html>"""


def test_the_text_of_a_page_is_what_a_reader_sees() -> None:
    assert html_text(PAGE) == ("Poem\n\nOne bold, italic.\nLine two\n\na\nb\nc\n\ncafé <tag> é")


@pytest.mark.parametrize(
    "page", ["", " \n", "<!-- only -->", "<html></html>", "<script>x</script>"]
)
def test_a_page_without_text_is_empty(page: str) -> None:
    assert html_text(page) == ""


def test_what_is_no_html_stays_as_it_is() -> None:
    assert html_text("one < two\n& three") == "one < two & three"


@pytest.mark.parametrize("tag", ["div", "font", "b"])
def test_nothing_is_lost_in_tags_that_are_never_closed(tag: str) -> None:
    assert html_text(f"<{tag}>" * 400 + "deep") == "deep"


def test_what_is_nested_too_deep_is_refused() -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        html_text("<div>" * 3000 + "deep")
    with pytest.raises(ValueError, match="nested too deep"):
        markdown_text("> " * 3000 + "deep")
