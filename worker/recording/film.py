"""Writes pictures of one size as a film: .gif by Pillow, .mp4 by imageio-ffmpeg where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from PIL import Image

from worker.errors import NotRecorded, UsageError

MIN_GIF_MS = 20
"""Browsers show a picture that is to stay less than this for 100 ms."""
NUM_COLOURS = 128

Write = Callable[[Path, Iterator[Image.Image], float], None]


def check_film(path: Path) -> None:
    """Raises unless a film of this name can be written, before an episode is played for it.

    Raises:
        UsageError: Its ending is none that is known.
        NotRecorded: A package is missing.
    """
    if path.suffix.lower() not in WRITERS:
        raise UsageError(f"--out {path}: the ending says what is written; use {' or '.join(WRITERS)}")
    if path.suffix.lower() == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError as error:
            raise NotRecorded(
                "an .mp4 needs the package imageio-ffmpeg: pip install imageio-ffmpeg; or write a .gif"
            ) from error


def write_film(path: Path, pictures: Iterable[Image.Image], *, fps: float) -> None:
    """Writes a film, whole or not at all.

    Args:
        path: Ends in .gif or .mp4.
        pictures: At least one, all of one size; taken as they come.
        fps: Pictures in a second.

    Raises:
        UsageError: Its ending is none that is known.
        NotRecorded: A package is missing, or could not write it.
    """
    check_film(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        WRITERS[path.suffix.lower()](part, iter(pictures), fps)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_gif(path: Path, pictures: Iterator[Image.Image], fps: float) -> None:
    paletted = (picture.quantize(NUM_COLOURS, dither=Image.Dither.NONE) for picture in pictures)
    first = next(paletted)
    shown_ms = max(MIN_GIF_MS, round(1_000 / fps))
    first.save(path, format="GIF", save_all=True, append_images=paletted, duration=shown_ms, loop=0)


def _write_mp4(path: Path, pictures: Iterator[Image.Image], fps: float) -> None:
    import imageio_ffmpeg

    first = next(pictures)
    writer = imageio_ffmpeg.write_frames(
        str(path), first.size, fps=fps, macro_block_size=2, ffmpeg_log_level="error", output_params=["-threads", "1"]
    )
    try:
        writer.send(None)
        for picture in chain([first], pictures):
            writer.send(picture.tobytes())
    except OSError as error:
        raise NotRecorded(f"ffmpeg could not write {path}: {error}") from error
    finally:
        writer.close()


WRITERS: Mapping[str, Write] = {".gif": _write_gif, ".mp4": _write_mp4}
