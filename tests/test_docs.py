"""Runs the Python of README.md and docs/ and compares what it prints with the `text` block that follows it."""

import ast
import contextlib
import inspect
import io
import re
import warnings
from pathlib import Path

import pytest

import gramian

ROOT = Path(__file__).parent.parent
GENERATED = {"gallery", "performance"}
PAGES = [
    ROOT / "README.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.relative_to(ROOT / "docs").parts[0] not in GENERATED),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORT = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)
PEERS = {"faiss", "nngeometry", "npeet_plus", "pywigxjpf"}  # to come from; nothing here needs them
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def examples(text):
    """Yield (code, expected output or None): a `python` block, and the `text` block right after it if there is one."""
    fences = list(FENCE.finditer(text))
    for fence, after in zip(fences, [*fences, None][1:], strict=True):
        if fence[1] == "python":
            follows = after is not None and after[1] == "text" and not text[fence.end() : after.start()].strip()
            yield fence[2], after[2] if follows else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_print_what_it_says(page):
    names = {"__name__": "__main__"}
    for code, expected in examples(page.read_text(encoding="utf-8")):
        with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
            if PEERS & set(IMPORT.findall(code)):
                warnings.simplefilter("ignore")  # theirs
            try:
                exec(compile(code, str(page), "exec"), names)
            except ModuleNotFoundError as missing:
                assert missing.name in PEERS
                continue
        if expected is not None:
            assert printed.getvalue().split() == expected.split()


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "csrc" / "README.md"], ids=lambda page: page.name
)
def test_the_links_of_a_page_lead_somewhere(page):
    missing = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert missing == []


def test_the_index_leads_to_every_page():
    reached, ahead = set(), [ROOT / "docs" / "index.md"]
    while ahead:
        page = ahead.pop().resolve()
        if page not in reached and page in PAGES:
            reached.add(page)
            ahead += [page.parent / link for link in LINK.findall(page.read_text(encoding="utf-8"))]
    assert reached == set(PAGES)


def test_each_module_has_a_page_of_its_reference():
    modules = {name for name in gramian.__all__ if inspect.ismodule(getattr(gramian, name))} | {"estimators"}
    for name in modules:
        page = ROOT / "docs" / "reference" / f"{name}.md"
        assert f".. automodule:: gramian.{name}\n" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("plot_*.py")), ids=lambda path: path.stem)
def test_the_gallery_can_show_the_docstring_of_an_example(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    title, line, *_ = text.splitlines()
    assert line == "=" * len(title)
    assert not re.search(r"\|\S[^|]*\|", text), "bars begin a substitution there"
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", text)


def test_an_example_is_joined_with_the_text_that_follows_it():
    page = "```python\nprint(1)\n```\n\n```text\n1\n```\n```python\nx = 2\n```\nwords\n```text\n3\n```\n"
    assert list(examples(page)) == [("print(1)\n", "1\n"), ("x = 2\n", None)]
