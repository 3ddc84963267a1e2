import jinja2
import pytest
import torch

from wssl_pl.evaluation.evaluate import evaluate
from wssl_pl.evaluation.pages import COLOURS, inline, markdown, render
from wssl_pl.evaluation.report import write_report

HOSTILE = "<script>alert('x')</script>"


def test_what_a_page_is_given_is_escaped_in_html(pairs, noisy, tmp_path):
    noisy.name, noisy.notes = HOSTILE, [f"`{HOSTILE}` **{HOSTILE}**"]
    write_report(evaluate(pairs, noisy), tmp_path / "out", pairs, noisy, torch.device("cpu"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert HOSTILE in (tmp_path / "out" / "report.md").read_text()


def test_bold_and_code_in_html():
    assert inline("a < b, `x < y` and **not shown**") == (
        f"a &lt; b, <code>x &lt; y</code> and <strong style='color:{COLOURS['not shown']}'>not shown</strong>"
    )
    assert inline("**other**") == "<strong>other</strong>"
    assert inline(HOSTILE) == "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"


def test_a_markdown_table():
    assert markdown([["a", "b"], ["x|y", "1"]]) == "| a | b |\n|---|---:|\n| x\\|y | 1 |"
    assert markdown([["a", "b"]], words=(0, 1)).endswith("|---|---|")


def test_a_variable_that_is_missing_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        render("pairs.md.j2", count=1)
