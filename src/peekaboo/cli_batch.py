"""`peekaboo segment --engine ray`: thin, as its neighbour `cli`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from peekaboo.console import SOME_FAILED, WRONG_USAGE, Report
from peekaboo.errors import PeekabooError

if TYPE_CHECKING:
    from peekaboo.batch import Order
    from peekaboo.cluster import Cluster
    from peekaboo.jobs import Job


def segment_on(where: Cluster, order: Order, work: Sequence[Job], report: Report, as_json: bool) -> int:
    """Segment on a cluster and say what came of each picture, in the order in which they are done; the exit code."""
    from peekaboo.batch import segment_all

    failed = done = 0
    with closing(segment_all(where, order, work)) as outcomes:
        try:
            for job, record in report.watch_many(outcomes, len(work)):
                if isinstance(record, str):
                    failed += 1
                    report.error(record)
                    row = {"image": str(job.image), "error": record}
                else:
                    done += 1
                    for note in record["notes"]:
                        report.say(f"note: {note}")
                    report.done(job.folder, record, stopped=False)
                    row = {**record, "folder": str(job.folder)}
                if as_json:
                    report.emit(row)
        except KeyboardInterrupt:
            report.stopped(done, failed, len(work))
            return SOME_FAILED
        except PeekabooError as error:
            report.error(str(error))
            return SOME_FAILED if done or failed else WRONG_USAGE
    return report.finish(failed, len(work))
