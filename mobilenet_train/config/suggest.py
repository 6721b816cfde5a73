"""What someone probably meant by a word that is not known."""

from collections.abc import Sequence
from difflib import get_close_matches


def nearest(word: str, known: Sequence[str]) -> str:
    """The end of an error message that suggests what was meant, or nothing."""
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
    close = get_close_matches(word, known, n=1) or get_close_matches(word.rsplit(".", 1)[-1], by_leaf, n=1)
    return f"; did you mean {by_leaf.get(close[0], close[0])!r}?" if close else ""
