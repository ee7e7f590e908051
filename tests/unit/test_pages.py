"""What a page that is run may differ in from what it shows, and from its translation."""

import contextlib

import pytest

from tests.e2e.pages import Block, Session, assert_printed_alike, blocks_of

PAGE = """# Seite

```console
$ python -m service
```

größer

```python
x = 1
```
"""


def python(text, line=1):
    return Block("page.md", line, "python", text)


def test_blocks_know_their_place_on_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    assert blocks_of(page) == [
        Block("page.md", 4, "console", "$ python -m service\n"),
        Block("page.md", 10, "python", "x = 1\n"),
    ]


def test_a_block_knows_the_names_of_those_above_and_a_trace_names_the_line_of_the_page(tmp_path):
    with contextlib.ExitStack() as stack:
        session = Session(tmp_path, stack)
        assert session.run(python("url = 'http://127.0.0.1:8000'\n")) == ""
        session.url = "http://127.0.0.1:9"
        assert (
            session.run(python("print(url, 'http://127.0.0.1:8000')\n")) == "http://127.0.0.1:8000 http://127.0.0.1:9\n"
        )
        with pytest.raises(ZeroDivisionError) as raised:
            session.run(python("1 / 0\n", line=30))
    assert raised.traceback[-1].lineno + 1 == 30
    assert str(raised.traceback[-1].path).endswith("page.md")


def test_a_command_that_is_none_of_ours_is_refused(tmp_path):
    with contextlib.ExitStack() as stack, pytest.raises(AssertionError, match="rm -r"):
        Session(tmp_path, stack).run(Block("page.md", 1, "console", "$ rm -r runs\n"))


@pytest.mark.parametrize("printed", ["chance 0.532\n", "chance 0.530\n"])
def test_last_digits_may_differ(printed):
    assert_printed_alike(printed, "chance 0.531\n")


@pytest.mark.parametrize(
    "printed", ["", "chance 0.631\n", "chance -0.531\n", "luck 0.531\n", "chance 0.531\n\n", "0.531\n"]
)
def test_nothing_else_may_differ(printed):
    with pytest.raises(AssertionError):
        assert_printed_alike(printed, "chance 0.531\n")


def test_whole_numbers_are_compared_exactly():
    with pytest.raises(AssertionError):
        assert_printed_alike("version 1\n", "version 2\n")


def test_a_translation_may_change_comments_and_docstrings():
    ours = python('def ask():\n    """Says yes."""\n    return "yes"  # always\n')
    theirs = python('def ask():\n    """说是。"""\n\n    return "yes"  # 总是\n')
    assert ours.meaning == theirs.meaning


@pytest.mark.parametrize("text", ['def ask():\n    return "no"\n', 'def tell():\n    return "yes"\n'])
def test_a_translation_may_change_nothing_else(text):
    assert python(text).meaning != python('def ask():\n    """Says yes."""\n    return "yes"\n').meaning


def test_a_translation_keeps_commands_and_what_is_printed_to_the_letter():
    assert Block("page.md", 1, "text", "1.00\n").meaning != Block("page.md", 1, "text", "1.0\n").meaning
