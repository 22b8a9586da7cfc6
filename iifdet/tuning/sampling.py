"""Who proposes values and who stops trials early: Optuna's samplers and pruners by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from iifdet.errors import InputError
from iifdet.tuning.space import Space

#: Which counted trial of the study an attempt belongs to; absent on the first attempt.
ROOT = "iifdet:root"

#: (seed, space) -> a sampler. It is made anew for each trial.
Factory = Callable[[int, Space], BaseSampler]


def _tpe(seed: int, space: Space) -> BaseSampler:
    """All keys together, and each group of keys that are in play together for itself."""
    conditional = any(p.when for p in space.parameters)
    return TPESampler(seed=seed, multivariate=True, group=conditional, constant_liar=True)


def _cmaes(seed: int, space: Space) -> BaseSampler:
    """CMA-ES for the numbers that are always in play, TPE for the others."""
    return CmaEsSampler(seed=seed, independent_sampler=TPESampler(seed=seed), warn_independent_sampling=False)


def _random(seed: int, space: Space) -> BaseSampler:
    return RandomSampler(seed=seed)


def _nsga2(seed: int, space: Space) -> BaseSampler:
    return NSGAIISampler(seed=seed, population_size=20)


#: ``grid`` has no sampler of its own: its points are known from the start and wait in the queue.
SAMPLERS: dict[str, Factory] = {"tpe": _tpe, "cmaes": _cmaes, "random": _random, "grid": _random, "nsga2": _nsga2}

#: name -> (epochs) -> pruner. The median speaks from the fifth finished trial on.
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "median": lambda epochs: MedianPruner(n_startup_trials=5, n_warmup_steps=1),
    "hyperband": lambda epochs: HyperbandPruner(min_resource=1, max_resource=max(1, epochs)),
    "none": lambda epochs: NopPruner(),
}


class SeededByTrial(BaseSampler):
    """A sampler whose random numbers depend on the study's seed and the trial alone.

    Optuna's samplers draw one long sequence: a resumed study would draw its beginning again, and propose what it has
    tried. This one begins anew for each trial, so that a study cut off anywhere goes on as if nothing had happened.

    Args:
        factory: makes the sampler.
        seed: the study's.
        space: what is searched.
    """

    def __init__(self, factory: Factory, seed: int, space: Space) -> None:
        self._factory, self._seed, self._space = factory, seed, space
        self._inner = self._made_for(0)

    def _made_for(self, number: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return self._factory(seed, self._space)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner = self._made_for(trial.system_attrs.get(ROOT, trial.number))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)


def check_choice(sampler: str, pruner: str, space: Space, objectives: int) -> None:
    """Refuse what does not go together.

    Raises:
        InputError: a pruner or CMA-ES beside several objectives, NSGA-II beside one, CMA-ES without numbers or package.
    """
    if objectives > 1 and pruner != "none":
        raise InputError(f"pruner: expected none beside several objectives, which have no order, got {pruner}")
    if objectives > 1 and sampler == "cmaes":
        raise InputError("sampler: expected tpe, random, grid or nsga2 beside several objectives, got cmaes")
    if objectives == 1 and sampler == "nsga2":
        raise InputError("sampler: nsga2 is for several objectives, got one; use tpe, or objective=[AP,tail10]")
    if sampler != "cmaes":
        return
    if not any(p.numeric and not p.when for p in space.parameters):
        raise InputError("sampler: cmaes searches numbers, and this space has none that is always in play; use tpe")
    if find_spec("cmaes") is None:
        raise InputError("sampler: expected the package cmaes, got none; pip install iifdet[tune]")
