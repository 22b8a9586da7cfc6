"""Training and evaluating from keys to a run folder, in the order of use:

results, folder, watching (validation) -> beginning -> training, validating, scoring. The verbs in ``api`` call these.
"""

from iifdet.running.results import RunResult
from iifdet.running.scoring import run_scoring
from iifdet.running.training import resume_run, run_training
from iifdet.running.validating import keys_of_recipe, run_val

__all__ = ["RunResult", "keys_of_recipe", "resume_run", "run_scoring", "run_training", "run_val"]
