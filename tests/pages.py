"""The README and the pages of docs/ and .github/, as tests read them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [path for place in (".", "docs", ".github") for path in sorted((ROOT / place).glob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str, kind: str) -> list[str]:
    """The fenced blocks of `kind` (python, bash) on a page such as docs/python.md, in its order."""
    return [body for found, body in FENCE.findall(TEXTS[page]) if found == kind]
