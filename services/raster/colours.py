"""Colours of thumbnails."""

from __future__ import annotations

Colour = tuple[int, int, int]

HYPSOMETRIC: tuple[Colour, ...] = (
    (46, 94, 78),
    (98, 145, 96),
    (176, 188, 126),
    (222, 205, 152),
    (190, 150, 110),
    (150, 110, 88),
    (205, 195, 190),
    (248, 248, 248),
)
"""From low to high ground."""

QUALITATIVE: tuple[Colour, ...] = (
    (78, 121, 167),
    (242, 142, 43),
    (89, 161, 79),
    (225, 87, 89),
    (118, 183, 178),
    (237, 201, 72),
    (176, 122, 161),
    (255, 157, 167),
    (156, 117, 95),
    (186, 176, 172),
    (160, 203, 232),
    (255, 190, 125),
    (140, 209, 125),
    (182, 153, 45),
    (73, 152, 148),
    (215, 181, 166),
)
"""Told apart easily, for categories without a colour table."""
