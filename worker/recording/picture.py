"""Composes a frame of the film: the environment on the left, what the policy makes of it on the right.

    ┌──────────────┬──────────────────────────┐
    │              │ title                    │
    │ environment  │ step, return             │
    │              │ the hint                 │
    │              │ action ▇▇▇▇▇▇▇▇▇▇▇▇  93% │
    │              │ what the policy reads    │
    └──────────────┴──────────────────────────┘

Its size is the same for every moment of an episode.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from worker.recording.episode import Moment

FRAME_HEIGHT, MAX_FRAME_WIDTH = 480, 560
PANEL_WIDTH, MARGIN = 400, 20
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 18, 15, 12
LINE_HEIGHT, GAP = 20, 10
MAX_TEXT_LINES, MAX_HINT_LINES, MAX_ACTIONS = 5, 2, 8
LABEL_WIDTH, NUMBER_WIDTH, ROW_HEIGHT, BAR_HEIGHT = 140, 50, 24, 14
INK, MUTED, CHOSEN, OTHER, RAIL, PAPER, HINT = (
    "#1c2430",
    "#7a8290",
    "#0b4f8a",
    "#a9bfd8",
    "#eef1f5",
    "#ffffff",
    "#8a4b00",
)

Font = ImageFont.FreeTypeFont


class Composer:
    """Composes the pictures of one episode.

    Args:
        title: What is played.
        subtitle: By what.
        odds: What the bars stand for.
        num_actions: Of the environment; decides how much room they get.
        with_hints: Whether there is room for a hint.
    """

    def __init__(self, title: str, subtitle: str, odds: str, *, num_actions: int, with_hints: bool) -> None:
        self._title, self._subtitle, self._odds, self._with_hints = title, subtitle, odds, with_hints
        self._num_rows = min(num_actions, MAX_ACTIONS) + (num_actions > MAX_ACTIONS)

    def compose(self, moment: Moment) -> Image.Image:
        """Returns the picture of a moment."""
        frame = fitted(moment.frame)
        height = max(frame.height, self._panel_height())
        height += height % 2  # video codecs want even numbers
        picture = Image.new("RGB", (frame.width + PANEL_WIDTH, height), PAPER)
        picture.paste(frame, (0, (height - frame.height) // 2))
        draw = ImageDraw.Draw(picture)
        draw.line((frame.width, 0, frame.width, height), RAIL)  # many a frame is as white as the panel
        self._draw_panel(draw, moment, frame.width + MARGIN)
        return picture

    def _panel_height(self) -> int:
        lines = 3 + 1 + 1 + MAX_TEXT_LINES  # titles and counts, a heading for the actions, the text under its heading
        return 2 * MARGIN + lines * LINE_HEIGHT + 3 * GAP + self._hint_height() + self._num_rows * ROW_HEIGHT

    def _hint_height(self) -> int:
        return (MAX_HINT_LINES + 1) * LINE_HEIGHT + GAP if self._with_hints else 0

    def _draw_panel(self, draw: ImageDraw.ImageDraw, moment: Moment, left: int) -> None:
        width, top = PANEL_WIDTH - 2 * MARGIN, MARGIN
        draw.text((left, top), clipped(self._title, font(TITLE_SIZE), width), INK, font(TITLE_SIZE))
        top += LINE_HEIGHT + 4
        draw.text((left, top), clipped(self._subtitle, font(SMALL_SIZE), width), MUTED, font(SMALL_SIZE))
        top += LINE_HEIGHT
        counts = f"step {moment.step}   return {moment.episode_return:g}"
        counts += f"   {moment.ending}" if moment.ending else ""
        draw.text((left, top), counts, INK, font(TEXT_SIZE))
        top += LINE_HEIGHT + GAP
        if moment.hint is not None:
            _draw_lines(draw, "hint (the policy is not told)", moment.hint, (left, top), MAX_HINT_LINES, HINT)
        top += self._hint_height()
        if moment.probabilities:
            draw.text((left, top), self._odds, MUTED, font(SMALL_SIZE))
            self._draw_bars(draw, moment, (left, top + LINE_HEIGHT))
        top += LINE_HEIGHT + self._num_rows * ROW_HEIGHT + GAP
        _draw_lines(draw, "the policy reads", moment.text, (left, top), MAX_TEXT_LINES, INK)

    def _draw_bars(self, draw: ImageDraw.ImageDraw, moment: Moment, corner: tuple[int, int]) -> None:
        left, top = corner
        shown, rest = rows(moment.probabilities, moment.action)
        bar_left, bar_width = left + LABEL_WIDTH, PANEL_WIDTH - 2 * MARGIN - LABEL_WIDTH - NUMBER_WIDTH
        for name, probability in shown:
            chosen = name == moment.action
            label = clipped(name, font(TEXT_SIZE), LABEL_WIDTH - 8)
            draw.text((left, top), label, CHOSEN if chosen else INK, font(TEXT_SIZE))
            bar_top = top + 3
            draw.rectangle((bar_left, bar_top, bar_left + bar_width, bar_top + BAR_HEIGHT), RAIL)
            if filled := round(bar_width * probability):
                box = (bar_left, bar_top, bar_left + filled, bar_top + BAR_HEIGHT)
                draw.rectangle(box, CHOSEN if chosen else OTHER)
            number = f"{probability:.0%}"
            draw.text((left + PANEL_WIDTH - 2 * MARGIN, top), number, INK, font(TEXT_SIZE), anchor="ra")
            top += ROW_HEIGHT
        if rest is not None:
            draw.text((left, top), f"all others together: {rest:.0%}", MUTED, font(SMALL_SIZE))


def rows(probabilities: dict[str, float], action: str | None) -> tuple[list[tuple[str, float]], float | None]:
    """Returns the actions that have room, in their own order, and what the others come to; None when all have room.

    The most likely ones are shown, and the one that was taken whatever its probability.
    """
    if len(probabilities) <= MAX_ACTIONS:
        return list(probabilities.items()), None
    likeliest = sorted(probabilities, key=lambda name: (name != action, -probabilities[name]))[:MAX_ACTIONS]
    shown = [(name, value) for name, value in probabilities.items() if name in likeliest]
    return shown, max(0.0, 1 - sum(value for _, value in shown))


def fitted(frame: NDArray[np.uint8]) -> Image.Image:
    """Returns an environment's picture as large as there is room for; small ones keep their square pixels."""
    image = Image.fromarray(frame)
    scale = min(FRAME_HEIGHT / image.height, MAX_FRAME_WIDTH / image.width)
    square = scale >= 2
    scale = int(scale) if square else scale  # by 2.5 some lines of a grid would be wider than others
    width, height = round(image.width * scale), round(image.height * scale)
    pixels = Image.Resampling.NEAREST if square else Image.Resampling.LANCZOS
    return image.resize((width + width % 2, height), pixels)


def wrapped(text: str, letters: Font, width: int, max_lines: int) -> list[str]:
    """Returns the lines of a text; what has no room ends in an ellipsis."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if letters.getlength(longer) <= width or not line:
            line = longer
        else:
            lines.append(line)
            line = word
    lines.append(line)
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], " ".join(lines[max_lines - 1 :])]
    return [clipped(each, letters, width) for each in lines]


def clipped(text: str, letters: Font, width: int) -> str:
    """Returns a text that is at most `width` pixels long."""
    if letters.getlength(text) <= width:
        return text
    kept = bisect_right(range(len(text)), width, key=lambda n: ceil(letters.getlength(f"{text[:n]}…"))) - 1
    return f"{text[: max(0, kept)].rstrip()}…"


@lru_cache
def font(size: int) -> Font:
    """Returns DejaVu Sans, which comes with matplotlib and knows most scripts."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _draw_lines(
    draw: ImageDraw.ImageDraw, heading: str, text: str, corner: tuple[int, int], max_lines: int, colour: str
) -> None:
    left, top = corner
    draw.text((left, top), heading, MUTED, font(SMALL_SIZE))
    for index, line in enumerate(wrapped(text, font(TEXT_SIZE), PANEL_WIDTH - 2 * MARGIN, max_lines)):
        draw.text((left, top + (index + 1) * LINE_HEIGHT - 3), line, colour, font(TEXT_SIZE))
