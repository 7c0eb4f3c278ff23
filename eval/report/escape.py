r"""Escapes texts for CSV, Markdown and LaTeX: an id, a label or a setting is never a formula or markup."""

from __future__ import annotations

import re

from program.text_safety import printable

DASH, MINUS = "\u2013", "\u2212"

_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""First characters, also in full width, with which a spreadsheet takes a cell for a formula."""

_MARKDOWN = re.compile(
    r"""[\\|`*]                        # escapes, cells, code, emphasis
    | <(?=[A-Za-z/!?])                 # tags and autolinks
    | &(?=\#?\w+;)                     # entities
    | \](?=[(\[:])                     # links and images
    | ~(?=~) | (?<=~)~                 # struck out
    | (?<![^\W_])_ | _(?![^\W_])       # emphasis; an underscore inside a word is none
    """,
    re.VERBOSE,
)
_ENTITIES = {"<": "&lt;", "&": "&amp;", "`": "'"}
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{character: "\\" + character for character in "&%$#_{}"},
        "±": r"$\pm$",
        MINUS: "$-$",
        DASH: "--",
        "≥": r"$\geq$",
        **{character: f"${character}$" for character in "<>|"},
    }
)


def escape_csv(text: str) -> str:
    """Return a text that a spreadsheet does not run as a formula.

    Example:
        >>> escape_csv("=HYPERLINK(A1)"), escape_csv("a = b")
        ("'=HYPERLINK(A1)", 'a = b')
    """
    text = printable(text)
    return f"'{text}" if text[:1] in ("\t", "\n") or text.lstrip().startswith(_FORMULA) else text


def escape_markdown(text: str) -> str:
    r"""Return a text on one line that Markdown shows as it is; backticks become apostrophes.

    Example:
        >>> print(escape_markdown("<b>a|b</b> *c* d_e"))
        &lt;b>a\|b&lt;/b> \*c\* d_e
    """
    line = " ".join(printable(text).splitlines())
    return _MARKDOWN.sub(lambda match: _ENTITIES.get(match[0], "\\" + match[0]), line)


def escape_latex(text: str) -> str:
    r"""Return a text on one line that LaTeX prints as it is.

    Example:
        >>> print(escape_latex("50 % of $5 > 1"))
        50 \% of \$5 $>$ 1
    """
    return " ".join(printable(text).splitlines()).translate(_LATEX)
