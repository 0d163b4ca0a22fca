"""What was found, as JSON for programs and Markdown for people."""

import json, statistics
from dataclasses import dataclass

import machine


@dataclass
class Table:
    title: str
    columns: list  # heading, field of the rows, decimal places or none for text
    rows: list

    def markdown(self):
        lines = [f"| {' | '.join(heading for heading, _, _ in self.columns)} |",
                 f"| {' | '.join('---' if digits is None else '---:' for _, _, digits in self.columns)} |"]
        for row in self.rows:
            lines.append(f"| {' | '.join(text(row.get(field), digits) for _, field, digits in self.columns)} |")
        return f"## {self.title}\n\n" + "\n".join(lines) + "\n"


def text(value, digits):
    if value is None:
        return ""
    if digits and abs(value) >= 1_000:
        digits = 0
    return str(value) if digits is None else f"{value:,.{digits}f}"


def median(runs, field):
    values = [run[field] for run in runs if run.get(field) is not None]
    return statistics.median(values) if values else None


def spread(runs, field):
    """From the lowest to the highest, in percent of the median; none of a single run."""
    values = [run[field] for run in runs]
    return None if len(values) < 2 else (max(values) - min(values)) / statistics.median(values) * 100


def write(context, suite, tables):
    """`results.json` and `results.md` of a suite; answers the latter's text."""
    about = machine.describe() | {"file_system": machine.file_system(context.scratch), "fdatasync": machine.sync_us(context.syncs)}
    arguments = {name: value for name, value in vars(context.arguments).items() if name not in ("out", "dir", "suite")}
    content = {"suite": suite, "machine": about, "arguments": arguments, "notes": context.notes,
               "tables": [{"title": table.title, "rows": table.rows} for table in tables]}
    context.out.mkdir(parents=True, exist_ok=True)
    (context.out / "results.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
    sync = about["fdatasync"]
    lines = [f"# Suite {suite}", "",
             f"{about['cores']} cores ({about['processor']}), {about['memory_gib']} GiB, {about['kernel']}, {about['file_system']}; "
             f"commit {about['commit']}, a {about['build']} build; {', '.join(about['versions'].values())}."]
    if sync:
        lines.append(f"A bare fdatasync: {sync['p50_us']:,.0f} us in the median of {sync['looks']} looks, whose medians are "
                     f"{sync['p50_us_lowest']:,.0f} to {sync['p50_us_highest']:,.0f} us; {sync['per_second']:,.0f} a second.")
    lines += ["Clients and servers share the cores.", ""]
    lines += [f"{note}\n" for note in context.notes]
    markdown = "\n".join(lines) + "\n" + "\n".join(table.markdown() for table in tables)
    (context.out / "results.md").write_text(markdown)
    return markdown
