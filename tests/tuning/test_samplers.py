"""Samplers and pruners: repeatable trial by trial, and better than chance."""

from __future__ import annotations

import statistics
from typing import Any

import optuna
import pytest
import yaml
from tuning_doubles import SPACE, truth

from iifdet.errors import InputError
from iifdet.tuning import PRUNERS, SAMPLERS, SeededByTrial, Space, check_choice, parse_space

DOUBLE = parse_space(yaml.safe_load(SPACE))
NUMBERS = parse_space(yaml.safe_load("x: {low: -5, high: 5}\ny: {low: -5, high: 5}\nz: {low: -5, high: 5}"))
WORDS = parse_space({"a": ["p", "q"]})


def search(sampler: str, seed: int, trials: int, space: Space = DOUBLE, reopened_at: int = -1) -> list[dict[str, Any]]:
    """Parameters of each trial, with its value; the study is opened anew before one of them."""
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage, study_name="s", direction="maximize")

    def open_study() -> optuna.Study:
        return optuna.load_study(study_name="s", storage=storage, sampler=SeededByTrial(SAMPLERS[sampler], seed, space))

    study, found = open_study(), []
    for number in range(trials):
        study = open_study() if number == reopened_at else study
        trial = study.ask()
        values = space.suggest(trial)
        value = truth(values) if space is DOUBLE else -sum((v - 1) ** 2 for v in values.values())
        study.tell(trial, value)
        found.append({**values, "value": value})
    return found


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_tried_in_one_go_or_cut_off_anywhere_the_trials_are_the_same(sampler: str) -> None:
    whole = search(sampler, 3, 16)
    assert [search(sampler, 3, 16, reopened_at=k) for k in (1, 8, 15)] == [whole] * 3
    assert search(sampler, 4, 16) != whole
    assert len({repr(values) for values in whole}) == 16


def test_cma_es_cut_off_anywhere_goes_on_the_same() -> None:
    whole = search("cmaes", 3, 30, NUMBERS)
    assert search("cmaes", 3, 30, NUMBERS, reopened_at=20) == whole


def test_tpe_beats_random_at_equal_budget_over_10_seeds() -> None:
    tpe, random = ([max(v["value"] for v in search(s, seed, 40)) for seed in range(10)] for s in ("tpe", "random"))
    assert statistics.mean(tpe) > statistics.mean(random) + 0.02
    assert sum(a > b for a, b in zip(tpe, random, strict=True)) >= 7


def test_cma_es_beats_random_where_there_are_numbers_alone() -> None:
    cma, random = (
        [max(v["value"] for v in search(s, seed, 60, NUMBERS)) for seed in range(5)] for s in ("cmaes", "random")
    )
    assert statistics.mean(cma) > statistics.mean(random)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_pruners_stop_the_hopeless_and_none_stops_nobody(pruner: str) -> None:
    study = optuna.create_study(
        direction="maximize", study_name="s", pruner=PRUNERS[pruner](9), sampler=optuna.samplers.RandomSampler(seed=0)
    )
    pruned = 0
    for number in range(30):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        quality = (number * 7) % 30
        for epoch in range(1, 10):
            trial.report(quality * epoch, epoch)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                pruned += 1
                break
        else:
            study.tell(trial, quality * 9)
    assert (pruned > 5) == (pruner != "none")
    assert study.best_value > 20 * 9


@pytest.mark.parametrize(
    ("sampler", "pruner", "space", "objectives", "message"),
    [
        ("tpe", "median", DOUBLE, 2, "pruner: expected none beside several objectives"),
        ("cmaes", "none", DOUBLE, 2, "sampler: expected tpe, random, grid or nsga2"),
        ("nsga2", "median", DOUBLE, 1, "sampler: nsga2 is for several objectives"),
        ("cmaes", "none", WORDS, 1, "sampler: cmaes searches numbers"),
    ],
)
def test_what_does_not_go_together_is_refused(
    sampler: str, pruner: str, space: Space, objectives: int, message: str
) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        check_choice(sampler, pruner, space, objectives)


def test_cma_es_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iifdet.tuning.sampling.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"expected the package cmaes, got none; pip install iifdet\[tune\]"):
        check_choice("cmaes", "none", NUMBERS, 1)
