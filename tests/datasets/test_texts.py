import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "dataset_scripts"
sys.path.insert(0, str(SCRIPTS))  # as Python itself does for a script
from texts import clean_html, flat_list, parse_list  # noqa: E402


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain  text\n", "plain text"),
        ("a<br>b<br/>c<p>d</p>e", "a b c d e"),
        ("<b>Bo</b>ld <i>and</i> H<sub>2</sub>O", "Bold and H2O"),
        ("AT&amp;T, AT&amp;amp;T, &#233;, &nbsp;x", "AT&T, AT&T, é, x"),
        ("a<!-- hidden -->b", "ab"),
        ("<script>if (a<b) {}</script>seen<style>p {}</style>", "seen"),
        ("3 < 4 & 5 > 4, I <3 it", "3 < 4 & 5 > 4, I <3 it"),
        ("cut short <b", "cut short <b"),
        ('<a href="x>y">link</a>', "link"),
        ("</script>after", "after"),
        ("", ""),
    ],
)
def test_clean_html(text, clean):
    assert clean_html(text) == clean


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["a", null, 1]', ["a", None, 1]),
        ("['a', [\"it's\"]]", ["a", ["it's"]]),
        (" [] ", []),
        ("[REC]", None),
        ("[1] one", None),
        ("a, b", None),
        ("['a'] + ['b']", None),
        ("[__import__('os').getcwd()]", None),
        ("[" * 100_000 + "]" * 100_000, None),
    ],
)
def test_parse_list(text, expected):
    assert parse_list(text) == expected


def test_flat_list():
    assert flat_list([["Beauty", " Hair "], ["Beauty", None, ("", 3)]]) == ["Beauty", "Hair", "3"]
    assert flat_list("one") == ["one"]
    assert flat_list(None) == []
    assert flat_list(parse_list("[" * 600 + '"deep"' + "]" * 600)) == ["deep"]
