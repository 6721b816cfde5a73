"""Figures that a notebook shows by itself."""

from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def inline(figure: "Figure") -> "Figure":
    """The figure with the method that IPython asks for; pyplot, which would keep it open, is not needed."""

    def png() -> bytes:
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()

    figure._repr_png_ = png  # type: ignore[attr-defined]
    return figure
