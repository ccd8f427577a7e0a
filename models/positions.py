"""Factorised learnable positions: a table for time, one for rows, one for columns, summed (Movie Gen 3.1.3)."""

import torch
from torch import Tensor, nn

# Shapes: T latent frames, R rows and C columns of tokens, L = T R C tokens in that order, D width.

Grid = tuple[int, int, int]  # (frames, rows, columns) in tokens


class Positions(nn.Module):
    """One vector per token from three tables; the transformer adds it to the input of every block.

    Tokens are looked up by their *global* index in the grid, so a device that holds a slice of the sequence passes
    the indices of its slice and gets exactly the rows the single process would use.
    """

    def __init__(self, width: int, max_frames: int, max_rows: int, max_columns: int):
        super().__init__()
        self.time = nn.Parameter(torch.empty(max_frames, width))
        self.row = nn.Parameter(torch.empty(max_rows, width))
        self.column = nn.Parameter(torch.empty(max_columns, width))
        for table in self.parameters():
            nn.init.normal_(table, std=0.02)

    def forward(self, grid: Grid, index: Tensor | None = None) -> Tensor:
        """[L, D] for the whole grid, or the rows of `index` (int64 [M], global token numbers) as [M, D]."""
        tables = (self.time, self.row, self.column)
        for size, table, axis in zip(grid, tables, ("frames", "rows", "columns"), strict=True):
            if size > len(table):
                raise ValueError(
                    f"{size} {axis} of tokens exceed the position table's {len(table)}; grow the model's tables first"
                )
        _, rows, columns = grid
        if index is None:
            index = torch.arange(grid[0] * rows * columns, device=self.time.device)
        frame, row, column = index // (rows * columns), index // columns % rows, index % columns
        return self.time[frame] + self.row[row] + self.column[column]


def extend_table(table: Tensor, length: int) -> Tensor:
    """[n, D] -> [length, D]: entries 0..n-1 unchanged, new ones mirror the old (n holds what n-1 held, and so on).

    Used for the doubling before joint 256 px training: a picture that fitted before gives the same output after.
    The paper does not say how the new half starts; a mirror keeps neighbours close and norms as learned.
    """
    if length < len(table):
        raise ValueError(f"a table of {len(table)} entries cannot be extended to {length}; tables only grow")
    fold = torch.arange(length, device=table.device) % (2 * len(table))
    return table[torch.where(fold < len(table), fold, 2 * len(table) - 1 - fold)]


def interpolate_table(table: Tensor, factor: int) -> Tensor:
    """[n, D] -> [factor n, D]: the same picture cut into finer patches (the 3x growth before 768 px).

    Values are read by linear interpolation at patch centres: new entry j sits at (j + 0.5) / factor - 0.5 in old
    indices, clamped at the borders. With an odd factor every old entry reappears in the middle of its group.
    """
    if factor < 1:
        raise ValueError(f"factor={factor} does not grow a table; use a whole number of at least 1")
    n = len(table)
    place = (torch.arange(factor * n, device=table.device, dtype=torch.float64) + 0.5) / factor - 0.5
    place = place.clamp(0, n - 1)
    left = place.floor().long().clamp(max=n - 1)
    right = (left + 1).clamp(max=n - 1)
    share = (place - left).to(table.dtype)[:, None]
    return torch.lerp(table[left], table[right], share)
