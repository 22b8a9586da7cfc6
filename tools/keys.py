"""Write the tables of docs/keys.md from the configuration: python tools/keys.py"""

from __future__ import annotations

from pathlib import Path

from iifdet.config import CONFIGS, tabulate_keys

PAGE = Path(__file__).parent.parent / "docs" / "keys.md"
MARK = "<!-- What follows is written by tools/keys.py. -->\n"


def written(page: str) -> str:
    """The page with its tables made anew; what stands above the mark stays."""
    head, mark, _ = page.partition(MARK)
    if not mark:
        raise SystemExit(f"{PAGE}: expected the line {MARK.strip()}, got none")
    shown: set[str] = set()
    return "\n".join([head + mark, *(_section(verb, shown) for verb in CONFIGS)])


def _section(verb: str, shown: set[str]) -> str:
    """Groups that stood in the same words under an earlier verb are only named."""
    groups = tabulate_keys(CONFIGS[verb])
    new = {title: table for title, table in groups.items() if table not in shown}
    again = [title for title in groups if title not in new]
    shown.update(new.values())
    tables = [f"**{title}**\n\n{table}\n" for title, table in new.items()]
    named = [f"And, as above: {'; '.join(again)}.\n"] if again else []
    return "\n".join([f"## iifdet {verb}\n", *tables, *named])


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
