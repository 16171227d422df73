"""`python -m docs.render` (make docs): write all generated parts of the pages anew."""

from __future__ import annotations

import sys

from docs.render.blocks import BLOCKS
from docs.render.pages import PageError, pages, rendered


def main() -> int:
    """Render every page in place and name those that changed. Returns an exit code."""
    for page in pages():
        before = page.read_text(encoding="utf-8")
        try:
            after = rendered(before, BLOCKS)
        except PageError as error:
            print(f"{page}: {error}", file=sys.stderr)
            return 2
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"{page}: rendered")
    return 0


if __name__ == "__main__":
    sys.exit(main())
