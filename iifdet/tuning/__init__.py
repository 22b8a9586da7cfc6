"""The study: Optuna proposes keys, each trial runs in a process of its own, and nothing is lost or counted twice.

machine -> locking -> storage; space, objective -> sampling; machine -> heartbeat -> queue -> worker; process -> jobs;
queue -> results -> reporting; raw_cache, logit_cache; all of these -> study.
"""

from iifdet.tuning.heartbeat import Watch
from iifdet.tuning.jobs import EpochReports, TrainJob, values_of
from iifdet.tuning.logit_cache import LogitCache
from iifdet.tuning.objective import Objective, check_objectives, flatten, parse_objective
from iifdet.tuning.process import Job, Outcome, Pruned, Report, TrialProcess, fork_server
from iifdet.tuning.queue import Lineage, Queue, lineages
from iifdet.tuning.raw_cache import RawCache
from iifdet.tuning.results import Found, StudyResult
from iifdet.tuning.sampling import PRUNERS, SAMPLERS, SeededByTrial, check_choice
from iifdet.tuning.space import Parameter, Space, parse_space
from iifdet.tuning.storage import describe_storage, open_storage
from iifdet.tuning.study import StudyPlan, open_folder, run_study
from iifdet.tuning.worker import Slot, Worker

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "EpochReports",
    "Found",
    "Job",
    "Lineage",
    "LogitCache",
    "Objective",
    "Outcome",
    "Parameter",
    "Pruned",
    "Queue",
    "RawCache",
    "Report",
    "SeededByTrial",
    "Slot",
    "Space",
    "StudyPlan",
    "StudyResult",
    "TrainJob",
    "TrialProcess",
    "Watch",
    "Worker",
    "check_choice",
    "check_objectives",
    "describe_storage",
    "flatten",
    "fork_server",
    "lineages",
    "open_folder",
    "open_storage",
    "parse_objective",
    "parse_space",
    "run_study",
    "values_of",
]
