"""The bias that gives a mean number of visits."""

from __future__ import annotations

import pytest

from smoe_mt.errors import UserError
from smoe_mt.generation import LoadedModel, RoutingOptions, load_model
from smoe_mt.generation.calibration import CLOSE, calibrate
from smoe_mt.generation.details import block_means
from smoe_mt.generation.routing import Rerouting, rerouting
from tests.conftest import TrainedRun


@pytest.fixture(scope="module")
def loaded(trained_run: TrainedRun) -> LoadedModel:
    return load_model(trained_run.folder, device="cpu")


def mean_on_valid(loaded: LoadedModel, routing: Rerouting) -> float:
    """All of the validation text at once, padding and all, where the calibration reads what it likes."""
    task, pairs = loaded.task, []
    for direction in task.directions:
        texts = [task.folder.references("valid", direction, side=side) for side in ("source", "target")]
        pairs += [(task.encode(one, direction[-2:]), task.encode_prefix(two)) for one, two in zip(*texts, strict=True)]
    with routing.opened():
        means = block_means(task, loaded.model, *map(list, zip(*pairs)), max_tokens=10**6)
    return sum(one.visits for one in means.values()) / len(means)


@pytest.mark.parametrize("mean", [1.2, 1.5, 1.8])
def test_the_bias_gives_the_mean_that_was_asked_for(loaded: LoadedModel, mean: float) -> None:
    routing = rerouting(loaded, RoutingOptions(capacity=f"mean={mean}"))
    assert routing.calibrated is not None
    assert mean_on_valid(loaded, routing) == pytest.approx(mean, abs=2 * CLOSE)
    assert routing.calibrated.mean == pytest.approx(mean_on_valid(loaded, routing), abs=1e-6)
    bias = RoutingOptions(capacity=f"bias={routing.calibrated.bias:g}")
    assert mean_on_valid(loaded, rerouting(loaded, bias)) == routing.calibrated.mean, (
        "the bias that is printed is all there is"
    )
    assert routing.as_json() == {"capacity": f"mean={mean:g}", "capacity_bias": routing.calibrated.bias}


def test_more_visits_need_more_bias(loaded: LoadedModel) -> None:
    found = [rerouting(loaded, RoutingOptions(capacity=f"mean={mean}")).calibrated for mean in (1.1, 1.4, 1.7)]
    biases = [one.bias for one in found if one is not None]
    assert biases == sorted(biases) and len(set(biases)) == 3


def test_a_model_without_validation_text_is_refused(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(loaded.task.folder), "has", lambda self, split, pair: False)
    with pytest.raises(UserError, match="has none that fits the model; give the bias itself .capacity bias=B"):
        calibrate(loaded, 1.5, lambda bias: rerouting(loaded, RoutingOptions(capacity=f"bias={bias}")))
