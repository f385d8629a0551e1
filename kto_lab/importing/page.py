"""The report of an import as a page: `kto_lab/templates/import.html` with its numbers."""

from kto_lab.importing.report import Report, notes
from kto_lab.importing.tallies import OTHERS
from kto_lab.pages import render
from kto_lab.statistics import proportion_interval

# Pixels of the longest bar, and of the axis of shares.
WIDTH = 260


def page(report: Report) -> str:
    """The report as HTML."""
    # Beside the sum of all others every bar would be a dot.
    longest = {
        name: max(
            [max(row.up + row.down, row.examples_up + row.examples_down) for row in rows if row.name != OTHERS] + [1]
        )
        for name, rows in report.balances.items()
    }
    return render(
        "import.html",
        title=f"Import of {report.source}",
        report=report,
        notes=notes(report),
        thumbs=report.thumbs - report.refused,
        interval=proportion_interval,
        longest=longest,
        others=OTHERS,
        width=WIDTH,
    )
