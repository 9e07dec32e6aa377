"""The command `batch`: its options, its progress and its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnxprune.cli.batch_progress import watching
from onnxprune.cli.options import PATH, Value, chosen, common, from_settings
from onnxprune.cli.screen import Column, Screen, Table
from onnxprune.cli.tables import FACTS
from onnxprune.reports.record import GOOD, STATUSES, Record
from onnxprune.settings import PruneSettings
from onnxprune.settings.kinds import Bytes
from onnxprune.settings.option import Group

FAILURES = 7
EACH = (
    Group.REMOVAL, Group.CRITERION, Group.CALIBRATION, Group.VALIDATION, Group.WIDTHS, Group.EVIDENCE,
    Group.INLINE, Group.INPUTS, Group.RUNTIME,
)  # fmt: skip
_RUN = ("jobs", "timeout", "memory_limit", "dask", "shard", "retry_failed")


@click.command()
@click.argument("source")
@click.option(
    "-o", "--output", type=PATH, required=True, metavar="DIR",
    help="Folder for models, plans, logs and reports: new, empty, or of the run to go on with.",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(min=1), show_default="one per core", metavar="N",
    help="Models at once, each in a process of one thread.",
)  # fmt: skip
@click.option(
    "--timeout", type=float, default=3600, show_default=True, metavar="S",
    help="Seconds that one model may take.",
)  # fmt: skip
@click.option(
    "--memory-limit", type=Value(Bytes()), metavar="SIZE",
    show_default="80 % of the machine's, divided by --jobs", help="Resident memory of one model's process.",
)  # fmt: skip
@click.option(
    "--dask", metavar="ADDRESS|local",
    help="Run the models on a Dask cluster that shares the file system, or on one of --jobs local workers.",
)  # fmt: skip
@click.option("--shard", metavar="i/n", help="Do only the i-th of n parts, for other schedulers.")
@click.option("--retry-failed", is_flag=True, help="Run again what ended with a failure.")
@click.option(
    "--save-config", type=PATH, metavar="FILE.json",
    help="Write the resolved run, too: a manifest of all models with their settings.",
)  # fmt: skip
@from_settings(PruneSettings, *EACH)
@common
def batch(screen: Screen, source: str, output: Path, **options: Any) -> int:
    """Prune many models, each in a process of its own.

    SOURCE is a folder, a glob, a model, or a manifest (TOML or JSON) that lists models with their settings;
    options given here override it. What is finished is written down at once: after Ctrl-C, a crash or a
    reboot the same command goes on. Exits with 7 where a model failed.

    \b
    Example:
      onnxprune batch zoo/ -o pruned/ --target macs=0.5 --jobs 2
    """
    from onnxprune.batches.manifest import write
    from onnxprune.batches.run import records, resolve

    given = _given()
    run = {key: value for key, value in options.items() if key in given and key in _RUN}
    resolved = resolve(source, output, chosen(PruneSettings, options, *EACH, given=given), run)
    if options["save_config"] is not None:
        write(options["save_config"], resolved.entries, resolved.run)
    with watching(screen) as watch:
        found = list(records(resolved, output, watch))
    found.sort(key=lambda record: record.id)
    screen.result(_told(found), shown(found, output, screen.detailed))
    return FAILURES if any(record.status not in GOOD for record in found) else 0


def _given() -> set[str]:
    """Return the names of the options that stand on the command line."""
    ctx = click.get_current_context()
    return {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def _told(records: list[Record]) -> Mapping[str, Any]:
    """Return the result of --json: how many ended how, the best first by id, and every record."""
    from onnxprune.reports.ranking import ranked

    ranking = [record.id for record, _ in ranked(records)]
    return {"statuses": counted(records), "ranking": ranking, "records": records}


def counted(records: list[Record]) -> dict[str, int]:
    """Return how many models ended how, in the order of STATUSES."""
    found = Counter(record.status for record in records)
    return {status: found[status] for status in STATUSES if found[status]}


def shown(records: list[Record], output: Path, detailed: bool = False) -> list[Table]:
    """Show what failed and where its log is, and how many ended how; with -v what came of the others."""
    failed = [r for r in records if r.status not in GOOD]
    columns = (
        Column("model", fold=True),
        Column("status"),
        Column("reason", fold=True),
        Column("log", fold=True),
    )
    rows = [(r.id, r.status, r.reason, r.log) for r in failed]
    facts = [(status, str(number)) for status, number in counted(records).items()]
    again = (
        [("retried", ", ".join(r.id for r in records if r.attempts > 1))]
        if any(r.attempts > 1 for r in records)
        else []
    )
    tables = [Table(columns, rows, "failed or fell short")] if rows else []
    tables += _measured(records) if detailed else []
    return [*tables, Table(FACTS, [*facts, *again, ("written", str(output))])]


def _measured(records: list[Record]) -> list[Table]:
    """Show every column of the models that were pruned, in the order and the colours of their quality."""
    from onnxprune.reports.columns import tabled
    from onnxprune.reports.ranking import ranked

    columns = tabled()
    rows, tones = [], []
    for record, outcome in ranked(records):
        if outcome is not None:
            found = [column.read(outcome) for column in columns]
            judged = "not judged" if outcome.loss is None else record.status
            status = judged if record.status == "done" else record.status
            rows.append((record.id, status, *("-" if f is None else f.shown.text for f in found)))
            tones.append(outcome.shade if record.status == "done" else "bad")
    heads = (Column("model", fold=True), Column("status"), *(Column(c.title, right=True) for c in columns))
    title = "pruned, the nearest to the original first; in brackets what is not of data"
    return [Table(heads, rows, title, tones)] if rows else []
