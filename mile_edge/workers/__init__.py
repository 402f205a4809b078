"""Many independent jobs over processes of this machine or over a Ray cluster: one interface, one way to stop.

    for outcome in run_jobs(Scorer(bundle), bags, workers=2, stop=interrupted):
        ...

`prepare` (here ``Scorer(bundle)``) travels to each worker, is called there once, and gives the function that does the
jobs: what is dear, such as a loaded network, is made once per worker. It must pickle, so it is a module's function or a
frozen dataclass with ``__call__``.
"""

from mile_edge.workers.jobs import Context, Outcome, Prepare, StoppedError, Work
from mile_edge.workers.run import MAX_WORKERS, run_jobs

__all__ = ["MAX_WORKERS", "Context", "Outcome", "Prepare", "StoppedError", "Work", "run_jobs"]
