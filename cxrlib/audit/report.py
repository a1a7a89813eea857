"""An audit as one HTML file, without a request to any host."""

import base64
import io
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template

import pandas as pd
from matplotlib import pyplot as plt

from cxrlib.audit.questions import Answer, ask_all
from cxrlib.audit.table import AuditError, audited_rows, read_predictions
from cxrlib.data.files import whole_file
from cxrlib.data.study import Study
from cxrlib.metrics.thresholds import choose_threshold
from cxrlib.model.facts import read_facts


def write_report(
    table: str | Path,
    out: str | Path,
    study: Study | None = None,
    threshold: float | None = None,
    title: str = "",
) -> pd.DataFrame:
    """Audit predictions of any model; write one HTML file and return its verdicts.

    Parameters
    ----------
    table : file with a row per radiograph, as `read_predictions` takes it; errors are as there
    study : its images are searched for copies, and its patients are taken
    threshold : from which a radiograph is called positive, 0..1; otherwise by Youden's rule on the
        rows that a split calls training, or 0.5

    Returns
    -------
    DataFrame, one row per claim: claim, verdict ('shown', 'not shown', 'cannot be told from these
    films') and reason
    """
    if Path(out).suffix.casefold() not in (".html", ".htm"):
        raise AuditError(f"'{out}' is no name of a page. Give one that ends in .html.")
    everything = read_predictions(table)
    rows = audited_rows(everything)
    if rows["target"].nunique() < 2:
        raise AuditError(f"{table}: its test rows are of one class. Give more.")
    train = everything[everything["split"] == "train"]
    how = "as given"
    if threshold is None and train["target"].nunique() == 2:
        how = "by Youden's rule on the training rows, as they are scored in the table"
        threshold = choose_threshold(train["target"].to_numpy(), train["probability"].to_numpy())
    elif threshold is None:
        threshold, how = 0.5, "for want of training rows"
    if not 0 <= threshold <= 1:
        raise AuditError(f"the threshold is {threshold}: give a number from 0 to 1")
    facts = (
        f"{len(rows)} radiographs of {rows['patient'].nunique()} patients, "
        f"{rows['target'].sum()} with the finding. A radiograph is called positive from "
        f"{threshold:.3g} on, {how}."
    )
    if other := len(everything) - len(rows):
        sides = "', '".join(sorted(set(rows["split"])))
        facts += f" Rows of '{sides}' are measured; {other} further rows of the table are not."
    answers = ask_all(rows, everything, threshold, study)
    verdicts = pd.DataFrame([a[:3] for a in answers], columns=Answer._fields[:3])
    with pd.option_context("display.max_colwidth", None):
        page = Template(Path(__file__).with_name("report.html").read_text("utf-8")).substitute(
            title=escape(title or f"Audit of {Path(table).name}"),
            facts=escape(facts),
            verdicts=verdicts.drop(columns="reason").to_html(index=False, border=0),
            sections="\n".join(map(_section, answers)),
            version=version("cxrlib"),
        )
    with whole_file(out) as part:
        part.write_text(page, encoding="utf-8", errors="replace")
    return verdicts


def report_run(run: str | Path, out: str | Path, study: Study | None = None) -> pd.DataFrame:
    """Write the audit of a run; see `write_report`. AuditError where it has no test scores."""
    run = Path(run)
    facts = read_facts(run)
    if "test" not in facts["metrics"]:
        raise AuditError(f"{run} was not scored on its test patients. Run notebook 03 on it.")
    title = f"Audit of {run.name}: {facts['finding']} against {facts['negative']}"
    return write_report(run / "predictions.csv", out, study, facts["threshold"]["value"], title)


def _section(answer: Answer) -> str:
    reason = escape(answer.reason)
    lines = ["<section>", f"<h2>{escape(answer.claim)}</h2>"]
    lines.append(f"<p><strong>{answer.verdict.capitalize()}.</strong> {reason}</p>")
    if answer.draw and len(answer.table):
        drawn = io.BytesIO()
        with plt.rc_context({"svg.hashsalt": "cxrlib"}):  # the same each time
            answer.draw().savefig(drawn, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close()
        picture = base64.b64encode(drawn.getvalue()).decode()
        lines.append(f'<img alt="{reason}" src="data:image/svg+xml;base64,{picture}">')
    if len(answer.table):
        lines.append(answer.table.to_html(border=0))
    return "\n".join([*lines, "</section>"])
