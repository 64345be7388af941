"""Pages of hostile texts and names in a real browser: everything is shown as text, and nothing of it acts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.report.page import write_report
from harness.text.adversarial import read_rows
from harness.text.words import changed_positions, find_words

ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "article"),
    *("h1", "h2", "h3", "h4", "p", "ul", "li", "a", "dl", "dt", "dd", "div", "span", "bdi", "mark", "small", "strong"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "code", "figure"),
    *("figcaption", "svg", "desc", "line", "text", "path"),
}


@pytest.fixture(scope="module")
def pages(hostile: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    return {run.name: write_report(run, folder / f"{run.name}.html").path for run in hostile}


@pytest.mark.parametrize("name", ["attack", "evaluated"])
def test_nothing_runs_and_no_element_is_made(name: str, pages: dict[str, Path], open_page: Callable[..., Any]) -> None:
    page = open_page(pages[name])
    assert page.evaluate("window.ran") is None
    assert set(page.evaluate("[...document.querySelectorAll('*')].map(one => one.localName)")) <= ELEMENTS
    handlers = "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).map(a => a.name)"
    assert not [name for name in page.evaluate(handlers) if name.startswith("on") or name == "style"]
    shown = page.evaluate("document.body.textContent")
    hidden = {c for c in pages[name].read_text(encoding="utf-8") if c not in "\n\t" and ord(c) < 32}
    assert not hidden | {c for c in shown + page.title() if c in "\u202e\u202c\u2067\u200b\u00ad\ufeff\u2028\x7f"}
    assert "<script>window.ran = 'text'</script>" in shown
    assert "</script></style></title></textarea><img src=x onerror=\"window.ran='image'\">" in shown
    assert "{{ 7 * 7 }} {% raw %} &lt;i&gt; &#60;u&#62; <!-- a comment" in shown


def test_the_policy_lets_no_script_run_if_one_got_in(pages: dict[str, Path], chromium: Any, tmp_path: Path) -> None:
    source = pages["attack"].read_text()
    (tmp_path / "broken.html").write_text(source.replace("</main>", "<script>window.ran=1</script></main>"))
    page = chromium.new_page()
    try:
        page.goto((tmp_path / "broken.html").as_uri())
        assert page.evaluate("window.ran") is None
        assert page.evaluate("getComputedStyle(document.querySelector('mark')).fontWeight") == "700"
    finally:
        page.close()


def test_texts_stand_whole_with_their_changed_words_marked(
    pages: dict[str, Path], hostile: tuple[Path, Path], open_page: Callable[..., Any]
) -> None:
    rows = {row.id: row for row in read_rows(hostile[0])}
    signs = "\u202e\u202c\u2067\u2069\x00\x07\x1b\x7f\r\u2028\u2029\u200b\u00ad\ufeff"
    plain = "e => [...e.childNodes].filter(n => n.className !== 'code').map(n => n.textContent)"
    page = open_page(pages["attack"])
    seen = set()
    for article in page.query_selector_all("article"):
        row = rows[article.query_selector("dd").text_content()]
        texts = [row.original_text, row.perturbed_text][: len(article.query_selector_all(".text"))]
        for text, other, shown in zip(texts, texts[::-1], article.query_selector_all(".text"), strict=True):
            codes = [code.text_content() for code in shown.query_selector_all(".code")]
            hidden = [c for c in text if c in signs]
            assert len(codes) == len(hidden)
            kept = "".join(shown.evaluate(plain))
            assert kept == "".join(c for c in text if c not in hidden)
            words, others = ([word.text for word in find_words(one)] for one in (text, other))
            changed = [words[i] for i in changed_positions(words, others, insertions=False)]
            marks = [mark.text_content() for mark in shown.query_selector_all("mark")]
            assert "".join(marks) == "".join(changed) if len(texts) > 1 else not marks
            seen |= set(hidden)
    assert len(seen) > 3


def test_marks_are_seen_without_colour_and_told_to_screen_readers(
    pages: dict[str, Path], open_page: Callable[..., Any]
) -> None:
    page = open_page(pages["attack"])
    for kind, line in (("old", "dotted"), ("new", "solid")):
        style = page.evaluate(f"(() => {{ const s = getComputedStyle(document.querySelector('mark.{kind}'));"
                              " return [s.textDecorationLine, s.textDecorationStyle, s.fontWeight]; })()")  # fmt: skip
        assert style == ["underline", line, "700"]
    said = page.evaluate("getComputedStyle(document.querySelector('mark'), '::before').content")
    assert "changed" in said


@pytest.mark.parametrize("name", ["attack", "evaluated"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_accessibility_violation_and_no_overflow(
    name: str, scheme: str, pages: dict[str, Path], open_page: Callable[..., Any], accessibility_faults: Any
) -> None:
    for width in (1280, 390):
        page = open_page(pages[name], width, color_scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert accessibility_faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 23, 27)"
        )


def test_it_is_read_and_scrolled_by_keyboard(pages: dict[str, Path], open_page: Callable[..., Any]) -> None:
    page = open_page(pages["evaluated"], 390)
    order = []
    active = "document.activeElement.localName + ' ' + (document.activeElement.textContent || '').trim()"
    for _ in range(12):
        page.keyboard.press("Tab")
        order.append(page.evaluate(active))
    assert order[0] == "a Summary"
    assert any(name.startswith("div") for name in order)  # a table that scrolls sideways
    page.focus("summary")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open")
