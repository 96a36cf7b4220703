"""Every key of ours as a page: ``python -m recbole_sda.switches > docs/switches.md``."""

from recbole_sda.defaults import explained_keys

INTRODUCTION = """\
# Switches

Every key of ours, and RecBole's where we set another default: as `--key=value`, in YAML or in a dictionary.
Written from the comments in `properties/` by `python -m recbole_sda.switches`.
"""
HEADER = ["| key | type | default | meaning |", "|---|---|---|---|"]


def page() -> str:
    """The page, in Markdown."""
    blocks = [INTRODUCTION]
    for title, keys in explained_keys():
        rows = [
            f"| `{key}` | {kind} | {_default(default)} | {_cell(text.removeprefix(f'({kind}) '))} |"
            for key, default, kind, text in keys
        ]
        blocks.append("\n".join([f"## {title}", "", *(HEADER if rows else []), *rows, ""]))
    return "\n".join(blocks)


def _default(text: str) -> str:
    return f"`{text}`" if text else "in the file"  # of several lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(page(), end="")
