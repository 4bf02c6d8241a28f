"""The SQL and the commands that docs/queries.md shows."""

import re
from pathlib import Path

TOP = Path(__file__).parents[2]


def sql_examples() -> list[str]:
    """Returns the blocks of docs/queries.md, and those of the views in docs/data-model.md."""
    views = (TOP / "docs/data-model.md").read_text(encoding="utf-8").partition("\n## Views\n")[2].partition("\n## ")[0]
    pages = [views, (TOP / "docs/queries.md").read_text(encoding="utf-8")]
    return [block for page in pages for block in re.findall(r"^```sql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]


def shell_lines() -> list[str]:
    """Returns the commands of docs/queries.md."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (TOP / "docs/queries.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]
