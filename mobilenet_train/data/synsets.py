"""The words for ImageNet's synset ids, so that `n01440764` is shown as `tench`.

The table holds the 1,000 classes of ILSVRC2012 in the order of their labels (that of the ids): the ids are WordNet
3.0's, the words those of torchvision's `weights.meta["categories"]`.
"""

from collections.abc import Sequence
from pathlib import Path

TABLE = Path(__file__).with_name("imagenet_synsets.txt")


def imagenet_words() -> dict[str, str]:
    """Synset id -> word, in the order of ImageNet's labels."""
    return dict(line.split(" ", 1) for line in TABLE.read_text(encoding="utf-8").splitlines())


def readable(folders: Sequence[str]) -> list[str]:
    """Class names for folder names: words if all of them are synset ids of ImageNet, else the folder names."""
    words = imagenet_words()
    return [words[folder] for folder in folders] if words.keys() >= set(folders) else list(folders)
