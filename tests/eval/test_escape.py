"""Ids, labels and settings in CSV, Markdown and LaTeX: shown as they are, never run or rendered."""

from __future__ import annotations

import re
from html import unescape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from eval.report.escape import escape_csv, escape_latex, escape_markdown
from eval.report.table import Table, key_column, to_csv, to_latex, to_markdown

HOSTILE = [
    '=HYPERLINK("http://x","y")',
    "[text](javascript:alert(1))",
    "![img](http://x/t.png)",
    "<script>alert(1)</script>",
    "<img src=x onerror=y>",
    "<!-- gone -->",
    "a|b",
    "a\\|b",
    "\\",
    "`code`",
    "**bold** __bold__ *it* _it_ ~~out~~",
    "snake_case_name",
    "&lt;b&gt; &amp; &#60;",
    "[x]: http://y",
    "[a][b]",
    "team[/eu]",
    "a\\*b\\_c",
]
MARKDOWN = MarkdownIt("gfm-like", {"linkify": False, "html": True}).disable("linkify")
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=30)


def shown(markdown: str) -> str:
    """The text that a reader sees: the rendered page without tags."""
    html = MARKDOWN.render(markdown)
    return unescape(re.sub(r"<[^>]*>", "", html))


def one_cell(text: str) -> Table:
    return Table(name="t", title="T", rows=[{"a": text}], columns=[key_column("a", "A", number=False)])


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_paragraph_shows_a_text_as_it_is(text: str) -> None:
    assert shown(f"see {escape_markdown(text)} there").strip() == f"see {text.replace('`', chr(39))} there"


@given(TEXTS)
@example("_a_")
@example("~~~a~~~")
@example("<a>")
def test_markdown_cell_shows_any_text_in_one_cell(text: str) -> None:
    html = MARKDOWN.render(to_markdown(one_cell(text)))
    (cell,) = re.findall(r"<td>(.*?)</td>", html, re.DOTALL)
    assert unescape(cell) == text.replace("`", "'")


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_renders_no_link_image_or_tag_of_a_text(text: str) -> None:
    html = MARKDOWN.render(to_markdown(one_cell(text)))
    tags = set(re.findall(r"</?(\w+)", html))
    assert tags <= {"p", "strong", "table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("first", [*"=+-@\t\n\r", " =", "\t@", "\uff1d", "\uff20"])
def test_csv_cell_is_never_a_formula(first: str) -> None:
    cell = to_csv(one_cell(f"{first}cmd|' /C calc'!A0")).split("\n", 1)[1].lstrip('"')
    assert cell[0] == "'" or cell.startswith("\\x0d")


def test_csv_keeps_negative_numbers_as_numbers() -> None:
    table = Table(name="t", title="T", rows=[{"a": -1.5, "b": -2, "c": "-2"}], columns=[])
    assert to_csv(table) == "a,b,c\n-1.5,-2,'-2\n"


@given(st.text(max_size=30))
def test_csv_text_is_changed_only_by_its_mark_and_escapes(text: str) -> None:
    escaped = escape_csv(text)
    assert escaped.encode("utf-8", "strict").decode() == escaped
    if text.isascii() and text.isprintable() and not text.lstrip().startswith(("=", "+", "-", "@")):
        assert escaped == text


@given(st.text(max_size=30))
def test_latex_row_has_no_argument_and_no_active_character(text: str) -> None:
    row = to_latex(one_cell(text)).split("\\midrule\n")[1].split("\n\\bottomrule")[0]
    assert not row.startswith(("[", "*"))
    assert row.count("\n") == 0
    plain = re.sub(r"\\[&%$#_{}]|\\\w+\{\}|\$[^$]+\$", "", escape_latex(text))
    assert not set(plain) & set("\\&%$#^~<>|")


@pytest.mark.parametrize("escape", [escape_csv, escape_markdown, escape_latex])
def test_control_characters_and_half_surrogates_are_escaped(escape: object) -> None:
    assert callable(escape)
    escaped = str(escape("a\x1b]0;t\x07\u202e\ud83d\x9b"))
    assert escaped.isascii()
    assert escaped.isprintable()
