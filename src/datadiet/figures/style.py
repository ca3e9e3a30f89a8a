"""How every figure looks: fonts, and colours that colour-blind eyes tell apart, the same for the same thing.

matplotlib is imported inside the functions, so that `import datadiet` stays quick, and only by its object
interface: no figure is known to pyplot and no global setting is left changed.
"""

from __future__ import annotations

import functools
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")

INK = "#1a1a1a"
GRID = "#dcdcdc"
FULL = "#000000"
CLEAN, CORRUPTED = "#0072b2", "#d55e00"
SMALL, NORMAL, TITLE = 9.0, 10.0, 11.5


class Look(NamedTuple):
    """How one curve is drawn."""

    colour: str
    marker: str


# The Okabe-Ito palette for what is compared most, Tol's muted colours for the rest.
_KNOWN: dict[str, Look] = {
    "hardest": Look("#0072b2", "o"),
    "easiest": Look("#009e73", "s"),
    "random": Look("#e69f00", "D"),
    "window": Look("#cc79a7", "^"),
    "stratified": Look("#d55e00", "v"),
    "quota": Look("#56b4e9", "P"),
    "full": Look(FULL, "*"),
    "el2n": Look("#332288", "p"),
    "grand": Look("#882255", "X"),
    "forgetting": Look("#44aa99", "h"),
}
_SPARE = (
    Look("#999933", "<"),
    Look("#aa4499", ">"),
    Look("#117733", "d"),
    Look("#88ccee", "8"),
    Look("#cc6677", "H"),
)


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """Label -> colour and marker: by the policy or score a label names, the same in every figure.

    Where two labels name the same one ("el2n hardest", "grand hardest"), the plainer label has it, and the
    others go by the next name in them, or take a look that nobody in the figure has.
    """
    labels = list(labels)
    found: dict[str, Look] = {}
    for label in sorted(labels, key=lambda one: (len(_words(one)), labels.index(one))):
        words = _words(label)
        named = [look for name, look in _KNOWN.items() if name in words]
        free = [look for look in named if look not in found.values()]
        if free:
            found[label] = free[0]
    spare = [look for look in (*_SPARE, *_KNOWN.values()) if look not in found.values() and look.colour != FULL]
    for place, label in enumerate(label for label in labels if label not in found):
        found[label] = spare[place % len(spare)] if spare else _SPARE[place % len(_SPARE)]
    return {label: found[label] for label in labels}


def ramp(count: int) -> list[Look]:
    """Looks for an ordered quantity: from light to dark, with a marker each."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    markers = "osD^vPX<>ph"
    places = [0.5] if count == 1 else [0.78 - 0.78 * place / (count - 1) for place in range(count)]
    return [
        Look(to_hex(colormaps["viridis"](place)), markers[number % len(markers)]) for number, place in enumerate(places)
    ]


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's own defaults and this package's settings, whatever the user's are; put back after."""
    import matplotlib
    from matplotlib import style as styles

    with (
        styles.context("default"),
        matplotlib.rc_context(
            {
                "font.size": NORMAL,
                "axes.titlesize": TITLE,
                "axes.titlelocation": "left",
                "axes.labelsize": NORMAL,
                "axes.labelcolor": INK,
                "axes.edgecolor": "#555555",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.axisbelow": True,
                "axes.grid": True,
                "axes.unicode_minus": True,
                "grid.color": GRID,
                "grid.linewidth": 0.7,
                "xtick.labelsize": NORMAL,
                "ytick.labelsize": NORMAL,
                "xtick.color": "#555555",
                "ytick.color": "#555555",
                "xtick.labelcolor": INK,
                "ytick.labelcolor": INK,
                "text.color": INK,
                # Names of classes and files may hold a dollar sign.
                "text.parse_math": False,
                "legend.fontsize": NORMAL,
                "legend.frameon": False,
                "lines.linewidth": 1.9,
                "lines.markersize": 6,
                "figure.facecolor": "white",
                "savefig.facecolor": "white",
                "svg.fonttype": "path",
                "svg.hashsalt": "datadiet",
            }
        ),
    ):
        yield


def styled(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a plotting function under `style`, and lay its figure out once and for all.

    Constrained layout starts from where the last drawing left off: each would move things by a hair, and
    no two files of a figure would be the same.
    """

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style():
            figure = function(*args, **kwargs)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            return figure

    return inside


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, on the Agg canvas, with constrained layout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(figure)
    return figure


def heading(axes: Any, title: str | None, note: str | None = None) -> None:
    """A title over the axes and a smaller line beneath it that says what is drawn, both wrapped; drawn last of all.

    They begin at the axes' left edge and may go on to the figure's right one. How far that is depends on what stands
    left of the axes: it is measured once the figure is laid out, and again with them in it.
    """
    figure = axes.figure
    beneath = None
    if note:
        beneath = axes.annotate(
            "", (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", fontsize=SMALL, va="bottom",
            gid="note",
        )  # fmt: skip
        # The title keeps its room free; for itself the layout would make the axes smaller where a line is wider.
        beneath.set_in_layout(not title)
    for _ in range(3):
        figure.draw_without_rendering()
        room = (1 - axes.get_position().x0) * figure.get_figwidth() - 0.12
        lines = broken(note, room, SMALL) if note else ""
        if beneath is not None:
            beneath.set_text(lines)
        if title:
            pad = 10 + 14 * (lines.count("\n") + 1) if lines else 8
            axes.set_title(broken(title, room, TITLE, "bold"), pad=pad, fontweight="bold")


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most `width` characters; a longer word is broken rather than cut off."""
    return "\n".join(textwrap.wrap(str(text), width) or [""])


def broken(text: str, inches: float, size: float, weight: str = "normal") -> str:
    """The text in lines that are no wider than that, in letters of this size."""
    text = str(text)
    most = 1 + 2 * math.ceil(len(text) * inches / max(_inches(text, size, weight), 1e-9))  # of letters twice as narrow
    for width in range(min(len(text), most), 1, -1):
        lines = wrapped(text, width)
        if all(_inches(line, size, weight) <= inches for line in lines.split("\n")):
            return lines
    return wrapped(text, 1)


def fitted(text: str, inches: float, size: float, lines: int = 1) -> str:
    """The text in at most so many lines of that width; of a longer one its beginning and its end, about an ellipsis.

    Names of classes differ at the end as often as at the beginning.
    """
    most = 1 + 2 * math.ceil(len(text) * lines * inches / max(_inches(text, size), 1e-9))
    for left in (len(text), *range(min(len(text) - 1, most), -1, -1)):
        first, last = text[: -(-left // 2)].rstrip(), text[len(text) - left // 2 :].lstrip()
        part = text if left == len(text) else f"{first}…{last}"
        if _inches(part, size) <= lines * inches:
            found = broken(part, inches, size)
            if found.count("\n") < lines:
                return found
    return "…"


def _inches(text: str, size: float, weight: str = "normal") -> float:
    """How wide a line is."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def percent(fraction: float) -> str:
    """0.375 -> "37.5", for ticks; three digits at most where the number is not round."""
    return f"{100 * float(fraction):.3g}"


def _words(label: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", str(label).casefold()))
