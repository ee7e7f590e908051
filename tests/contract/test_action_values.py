"""`/act` of a policy with action values: Q in `scores`, the largest in `value`, softmax of Q in `log_probs`."""

import numpy as np
import pytest
import torch

BODY = {"observations": ["cart 20", "cart 21"], "actions": ["push left", "push right"], "seed": 3}


@pytest.mark.parametrize("mode", [{"mode": "greedy"}, {"mode": "epsilon", "epsilon": 0.5}])
async def test_scores_are_action_values_once_weights_with_a_scale_are_pushed(fresh, mode):
    plain = (await fresh.ask("/act", {**BODY, **mode}))["results"]
    await fresh.put_noise(0.0, q_scale=torch.tensor(3.0))
    told = (await fresh.ask("/act", {**BODY, **mode}))["results"]
    for before, after in zip(plain, told, strict=True):
        scores = np.array(before["scores"])
        expected = before["value"] + 3.0 * (scores - scores.mean())
        np.testing.assert_allclose(after["scores"], expected, atol=1e-4)
        assert after["value"] == pytest.approx(max(after["scores"]), abs=1e-6)
        shifted = np.array(after["scores"]) - max(after["scores"])
        np.testing.assert_allclose(after["log_probs"], shifted - np.log(np.exp(shifted).sum()), atol=1e-4)
        assert before["action"] == after["action"]  # the order of the actions is that of their scores


async def test_a_temperature_divides_action_values(fresh):
    await fresh.put_noise(0.0, q_scale=torch.tensor(3.0))
    request = {**BODY, "observations": ["cart 20"] * 400, "mode": "sample", "temperature": 50.0}
    results = (await fresh.ask("/act", request))["results"]
    q = np.array(results[0]["scores"]) / 50
    share = np.mean([result["action"] == 0 for result in results])
    assert share == pytest.approx(np.exp(q[0]) / np.exp(q).sum(), abs=0.1)
    first = results[0]
    expected = (q - np.log(np.exp(q).sum()))[first["action"]]
    assert first["log_prob"] == pytest.approx(expected, abs=1e-4)
