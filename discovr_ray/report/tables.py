"""The page's tables: checkpoints, clips left out, configuration."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

from discovr_ray.config import Config

if TYPE_CHECKING:  # it brings torch, which a page does not need
    from discovr_ray.report.run_files import RunFiles

MAX_QUARANTINE_ROWS = 200


def checkpoints(run: RunFiles) -> str:
    """Folders of the run, newest first, with those that do not count."""
    if not run.checkpoints:
        return note("No checkpoint yet.")
    rows = [
        [f"<code>{row.name}</code>", f"{row.step:,}", "complete", f"{row.num_files}", f"{row.num_bytes / 2**20:,.1f}"]
        if row.complete
        else [f"<code>{row.name}</code>", f"{row.step:,}", "incomplete, not used for resuming", "", ""]
        for row in run.checkpoints
    ]
    return table(["Folder", "Step", "State", "Files", "MiB"], rows, numbers={1, 3, 4})


def quarantine(run: RunFiles) -> str:
    """Clips that failed, with their reasons."""
    if not run.quarantine:
        return note("Every clip that was asked for could be read.")
    rows = [
        [
            f"<code>{escape(str(item.get('clip_id', '')))}</code>",
            escape(str(item.get("reason", ""))),
            escape(str(item.get("step", ""))),
            escape(str(item.get("epoch", ""))),
        ]
        for item in run.quarantine[:MAX_QUARANTINE_ROWS]
    ]
    more = len(run.quarantine) - len(rows)
    rest = note(f"and {more} more in quarantine.jsonl") if more else ""
    return table(["Clip", "Reason", "Step", "Epoch"], rows, numbers={2, 3}) + rest


def configuration(run: RunFiles) -> str:
    """Every field beside its default."""
    if not run.config:
        return note("The run folder holds no config.yaml.")
    defaults = Config().to_dict()
    rows = []
    for section, values in run.config.items():
        rows.append(f'<tr class="section"><th colspan="3">{escape(section)}</th></tr>')
        for name, value in (values or {}).items():
            default = defaults.get(section, {}).get(name)
            changed = ' class="changed"' if _plain(value) != _plain(default) else ""
            rows.append(
                f"<tr{changed}><td>{escape(section)}.{escape(name)}</td><td><code>{escape(_plain(value))}</code></td>"
                f"<td><code>{escape(_plain(default))}</code></td></tr>"
            )
    head = "<tr><th>Field</th><th>This run</th><th>Default</th></tr>"
    legend = note("Shaded: different from the default.")
    return f'{legend}<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _plain(value: Any) -> str:
    """A value as text that is the same for what YAML cannot tell apart, such as a tuple and a list."""
    return json.dumps(value, sort_keys=True) if value is not None else "–"


def table(head: list[str], rows: list[list[str]], numbers: set[int]) -> str:
    """Cells are HTML; `numbers` are the columns that stand to the right."""

    def line(cells: list[str], tag: str) -> str:
        kinds = [' class="number"' if place in numbers else "" for place in range(len(cells))]
        marked = [f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)]
        return f"<tr>{''.join(marked)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def note(text: str) -> str:
    """A line in place of, or below, a table."""
    return f'<p class="note">{escape(text)}</p>'
