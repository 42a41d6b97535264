"""A canvas of braille characters for a terminal: two dots across and four down in each character cell."""

from __future__ import annotations

_BLANK = 0x2800
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Of the dot in row y and column x of a cell, as Unicode numbers them."""


class BrailleCanvas:
    """Lines of dots, with letters over them, each cell in the colour of what was drawn there last.

    Args:
        width: Character cells across.
        height: Character cells down.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._dots = [[0] * width for _ in range(height)]
        self._letters: dict[tuple[int, int], str] = {}
        self._colors: dict[tuple[int, int], str] = {}

    @property
    def num_dots(self) -> tuple[int, int]:
        """Dots across and down."""
        return 2 * self.width, 4 * self.height

    def dot(self, x: int, y: int, color: str = "") -> None:
        """Set the dot ``x`` from the left and ``y`` from the top; outside the canvas nothing happens."""
        if 0 <= x < 2 * self.width and 0 <= y < 4 * self.height:
            self._dots[y // 4][x // 2] |= _BITS[y % 4][x % 2]
            self._colors[y // 4, x // 2] = color

    def line(self, x: int, y: int, to_x: int, to_y: int, color: str = "") -> None:
        """Set the dots of a straight line, both ends included."""
        steps = max(abs(to_x - x), abs(to_y - y), 1)
        for step in range(steps + 1):
            self.dot(x + round(step * (to_x - x) / steps), y + round(step * (to_y - y) / steps), color)

    def letter(self, x: int, y: int, letter: str, color: str = "") -> bool:
        """Write a letter over the cell of a dot; False if another letter is there or next to it already."""
        row, column = y // 4, x // 2
        if any((row, column + shift) in self._letters for shift in (-1, 0, 1)):
            return False
        self._letters[row, column] = letter
        self._colors[row, column] = color
        return True

    def rows(self) -> list[str]:
        r"""The picture, a text a row of cells; colours stand before and their end after each cell that has one.

        >>> canvas = BrailleCanvas(3, 1)
        >>> canvas.line(0, 3, 5, 0)
        >>> canvas.rows()
        ['⡠⠔⠊']
        """
        return ["".join(self._cell(row, column) for column in range(self.width)).rstrip() for row in range(self.height)]

    def _cell(self, row: int, column: int) -> str:
        dots = self._dots[row][column]
        text = self._letters.get((row, column)) or (chr(_BLANK + dots) if dots else " ")
        color = self._colors.get((row, column), "")
        return f"{color}{text}\033[0m" if color else text
