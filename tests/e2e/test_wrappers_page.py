"""The page about wrappers is run from top to bottom, against a real service, and prints what it shows."""

import contextlib

from tests.e2e.pages import Session, assert_printed_alike, blocks_of
from tests.e2e.processes import ROOT

BLOCKS = blocks_of(ROOT / "docs" / "wrappers.md")


def test_the_page_prints_what_it_shows(tmp_path):
    with contextlib.ExitStack() as stack:
        session = Session(tmp_path, stack)
        num_shown = 0
        for block, following in zip(BLOCKS, [*BLOCKS[1:], None], strict=True):
            printed = session.run(block)
            if block.language == "python":
                assert following is not None, block.name
                assert following.language == "text", block.name
                assert_printed_alike(printed, following.text)
                num_shown += 1
        assert num_shown == 5
