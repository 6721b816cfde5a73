"""How a field of the schema is written: its help and its rule, in one line beside its type. Standard library only.

Each function here is the default of a dataclass field. It keeps in the field's metadata what `--help` prints, which
values are allowed and whether the key may change when a run is resumed. The values themselves are in `conf/`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, dataclass_transform

MISSING: Any = "???"  # omegaconf's mark of a key that has no value yet
NULL = "null"
YEAR = 366 * 24 * 3600  # seconds
IMAGES = 2**20  # more than fit into one batch anywhere
MANY = 10**6  # epochs, minutes, classes and the like
MOST_PIXELS = 4096  # a side
MOST_WIDTH = 32


@dataclass_transform()
class Section:
    """A dataclass of keys. One `__init__` for all of them: generated ones would take a quarter of `--help`'s time."""

    def __init_subclass__(cls) -> None:
        dataclass(init=False, repr=False, eq=False, match_args=False)(cls)

    def __init__(self, **values: Any) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            made = item.default_factory if callable(item.default_factory) else lambda item=item: item.default
            setattr(self, item.name, values[item.name] if item.name in values else made())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in vars(self).items())})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)


@dataclass(frozen=True)
class Rule:
    """Which values a key takes: `allowed` says it to people, after "is not allowed: ".

    fits: what any version has let pass, so that a saved run stays readable.
    fits_typed: a narrower range for values that someone types today.
    """

    allowed: str
    fits: Callable[[Any], bool]
    fits_typed: Callable[[Any], bool]


FLAG = Rule("true or false", lambda value: isinstance(value, bool), lambda value: isinstance(value, bool))


@dataclass(frozen=True)
class Option:
    """What the schema says of one key."""

    help: str
    rule: Rule | None = None
    free: bool = False  # does not change the result: may change at a resume, is left out of a sweep's hash
    sweep: bool = False  # belongs to a sweep as a whole, not to its jobs
    saved: bool = True  # otherwise it holds for one command alone
    alias: str | None = None  # the key's present name, where this is its old one


def whole(
    about: str,
    least: int,
    most: int | None = None,
    *,
    typed_most: int | None = None,
    null: str = "",
    said: str = "a whole number",
    why: str = "",
    **flags: Any,
) -> Any:
    """A whole number from `least` to `most`, above which `typed_most` ends what can be typed. `null`: allowed too."""
    upper = typed_most if typed_most is not None else most
    allowed = _sentence(null, f"{said} from {least}" + ("" if upper is None else f" to {upper}"), why)
    return _option(about, allowed, lambda v: is_whole(v, least, most), lambda v: is_whole(v, least, upper), null, flags)


def number(
    about: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    typed_most: float | None = None,
    null: str = "",
    said: str = "a number",
    why: str = "",
    **flags: Any,
) -> Any:
    """A number within bounds: `least` and `most` belong to the range, `above` and `below` do not."""
    upper = typed_most if typed_most is not None else most
    low = f"from {least:g}" if least is not None else f"above {above:g}"
    high = f"below {below:g}" if below is not None else f"at most {upper:g}" if least is None else f"to {upper:g}"
    allowed = _sentence(null, f"{said} {low}{' ' if high.startswith('to') else ', '}{high}", why)

    def within(value: Any, most: float | None) -> bool:
        return (
            is_number(value)
            and (value >= least if least is not None else value > (above or 0))
            and (below is None or value < below)
            and (most is None or value <= most)
        )

    return _option(about, allowed, lambda v: within(v, most), lambda v: within(v, upper), null, flags)


def numbers(
    about: str,
    allowed: str,
    fits: Callable[[list[float]], bool],
    fits_typed: Callable[[list[float]], bool] | None = None,
    *,
    null: str = "",
) -> Any:
    """A list of numbers that a function judges."""

    def of_numbers(judge: Callable[[list[float]], bool]) -> Callable[[Any], bool]:
        # an interpolation can bring anything here
        return lambda values: isinstance(values, list) and all(map(is_number, values)) and judge(values)

    return _option(about, _sentence(null, allowed), of_numbers(fits), of_numbers(fits_typed or fits), null, {})


def one_of(about: str, *names: str, null: str = "", **flags: Any) -> Any:
    """One of several words."""
    listed = f"one of {', '.join(names)}" if len(names) > 2 else " or ".join(names)
    return _option(about, _sentence(null, listed), lambda v: v in names, lambda v: v in names, null, flags)


def flag(about: str, **flags: Any) -> Any:
    """True or false."""
    return field(default=MISSING, metadata={"option": Option(about, FLAG, **flags)})


def consent(about: str) -> Any:
    """True only where the user says so in this very command; never saved."""
    return field(default=False, metadata={"option": Option(about, FLAG, free=True, saved=False)})


def text(
    about: str,
    allowed: str = "",
    fits: Callable[[str], bool] = bool,
    fits_typed: Callable[[str], bool] | None = None,
    *,
    null: str = "",
    **flags: Any,
) -> Any:
    """A word or a path; without `allowed` any will do, since only trying can judge it."""
    if not allowed:
        return field(default=MISSING, metadata={"option": Option(about, **flags)})
    return _option(about, _sentence(null, allowed), fits, fits_typed or fits, null, flags)


def anything(
    about: str, allowed: str, fits: Callable[[Any], bool], fits_typed: Callable[[Any], bool] | None = None, **flags: Any
) -> Any:
    """A value of several types that a function judges."""
    return _option(about, allowed, fits, fits_typed or fits, "", flags)


def factory(about: str, null: str = "", **flags: Any) -> Any:
    """The import path of the user's own function."""
    path = re.compile(r"[^:]+:[^:]+")
    return text(about, "package.module:function", lambda value: bool(path.fullmatch(value)), null=null, **flags)


def arguments(about: str) -> Any:
    """Arguments of the user's own function."""
    named = Rule("KEY=VALUE pairs, e.g. {width: 16}", lambda values: isinstance(values, dict), _are_arguments)
    return field(default_factory=dict, metadata={"option": Option(about, named)})


def _are_arguments(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(key, str) and key.isidentifier() for key in values)


def alias(of: str) -> Any:
    """The former name of a key."""
    return field(default=None, metadata={"option": Option(f"former name of {of}", alias=of)})


def options(schema: Any, prefix: str = "") -> Iterator[tuple[str, Option]]:
    """(dotted key, option) of every field of a dataclass or an instance of one, nested ones included."""
    for item in fields(schema):
        part = nested(schema, item)
        if part is not None:
            yield from options(part, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item.metadata["option"]


def nested(schema: Any, item: Field[Any]) -> Any:
    """The dataclass that a field holds, or its instance where `schema` is one; None for a plain value."""
    part = item.default_factory if isinstance(schema, type) else getattr(schema, item.name)
    return part if is_dataclass(part) else None


def is_whole(value: Any, least: int, most: int | None) -> bool:
    """True for a whole number within the bounds; a boolean is not one."""
    plain = isinstance(value, int) and not isinstance(value, bool)
    return plain and least <= value and (most is None or value <= most)


def is_number(value: Any) -> bool:
    """True for whole and other numbers; a boolean is not one."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sentence(null: str, allowed: str, why: str = "") -> str:
    return (f"{null} or " if null else "") + allowed + (f" ({why})" if why else "")


def _option(
    about: str,
    allowed: str,
    fits: Callable[[Any], bool],
    fits_typed: Callable[[Any], bool],
    null: str,
    flags: dict[str, Any],
) -> Any:
    def or_null(judge: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda value: value is None or judge(value)

    if null:
        fits, fits_typed = or_null(fits), or_null(fits_typed)
    return field(default=MISSING, metadata={"option": Option(about, Rule(allowed, fits, fits_typed), **flags)})
