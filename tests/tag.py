"""Is this tag the version in settings.ini?

    python tests/tag.py v0.1.0      # or TAG=v0.1.0 in the environment, as `make dist` and release.yml hand it over

Without a tag there is nothing to check. A tag is anybody's text, so that it never stands in a shell's line.
"""
import configparser, os, sys
from pathlib import Path


def version(settings: Path) -> str:
    cfg = configparser.ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(settings, encoding="utf-8")
    return cfg["DEFAULT"]["version"]


def differs(tag: str, settings: Path) -> str:
    "A sentence with the remedy, or nothing."
    right = f"v{version(settings)}"
    if tag in ("", right): return ""
    return f"the tag is {tag}, the version in settings.ini makes it {right}: tag {right}, or change the version first"


if __name__ == "__main__":
    tag = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TAG", "")
    sys.exit(differs(tag, Path(__file__).parents[1] / "settings.ini") or 0)
