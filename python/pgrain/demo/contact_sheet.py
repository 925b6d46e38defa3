"""The first rows of a ranking as one PNG: each picture with the label it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from pgrain.demo.datasets import SIDE

SCALE = 3
CAPTION = 26
GAP = 10
MARGIN = 16
INK, WRONG, RIGHT = (20, 20, 20), (200, 40, 40), (40, 140, 60)


@dataclass(frozen=True)
class Suspect:
    """One training row of a ranking."""

    rank: int
    train_id: int
    image: bytes
    label: str
    wrong: bool
    """Is the label truly wrong (known in a demo alone)?"""


def draw(suspects: Sequence[Suspect], path: Path, *, title: str, columns: int = 10) -> None:
    """Writes the sheet. Frames say what the truth says: red, the label is wrong; green, it is
    right and the row is suspected without cause."""
    cell = SIDE * SCALE
    rows = -(-len(suspects) // columns)
    size = (2 * MARGIN + columns * (cell + GAP), 2 * MARGIN + 20 + rows * (cell + CAPTION + GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 6), title, fill=INK)
    for number, suspect in enumerate(suspects):
        x = MARGIN + number % columns * (cell + GAP)
        y = MARGIN + 20 + number // columns * (cell + CAPTION + GAP)
        picture = Image.frombytes("L", (SIDE, SIDE), suspect.image)
        sheet.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), (x, y))
        colour = WRONG if suspect.wrong else RIGHT
        pen.rectangle((x - 2, y - 2, x + cell + 1, y + cell + 1), outline=colour, width=2)
        pen.text((x, y + cell + 2), f"#{suspect.rank} {suspect.label}", fill=INK)
        pen.text((x, y + cell + 13), f"id {suspect.train_id}", fill=(110, 110, 110))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
