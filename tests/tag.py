"Is this tag the version in settings.ini?  python tests/tag.py v0.1.0   (nothing to check without a tag)"
import configparser, sys
from pathlib import Path


def version(settings: Path) -> str:
    cfg = configparser.ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(settings, encoding="utf-8")
    return cfg["DEFAULT"]["version"]


def differs(tag: str, settings: Path) -> str:
    "A sentence with the remedy, or nothing."
    if not tag or tag == (right := f"v{version(settings)}"): return ""
    return f"the tag is {tag}, the version in settings.ini makes it {right}: tag {right}, or change the version first"


if __name__ == "__main__": sys.exit(differs("".join(sys.argv[1:]), Path(__file__).parents[1] / "settings.ini") or 0)
