"""Which hints a trained policy follows of its own accord, and what that comes to.

    python -m benchmarks.obedience RUN_DIR... [--episodes 100]

The policy of each run plays 100 episodes from seed 900,000 without being shown a hint, by sampling, as it did in
training. In every state that it meets, the guidance model is asked for one all the same, and what the policy does is
held against it. Of a run:

| number           | meaning                                                                            |
| ---------------- | ---------------------------------------------------------------------------------- |
| `success_rate`   | share of the episodes                                                               |
| `obeyed`         | share of the steps that took the action which the hint begins with                  |
| `steps_a_state`  | steps of an episode over the texts it met, in the mean; 1: it came back to none     |
| `by_hint`        | for each hint, colours left out: its share of the steps, its episodes, and `obeyed` |
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from minigrid.core.constants import COLOR_NAMES

from benchmarks import results_file
from hintwise.advising.hints import HintSource
from hintwise.advising.hints import State as Told
from worker.buffers import Behaviour
from worker.checkpoint import Checkpoint
from worker.config import EvaluateConfig
from worker.guidance.hints import service_hints
from worker.hint_words import named_action
from worker.seeds import FIRST_EVALUATION_SEED, evaluation_action_seed
from worker.served_policy import ServedPolicy
from worker.served_run import judged_checkpoint, say, serving
from worker.text_env import TextEnv

Row = dict[str, Any]
SAY_EVERY = 20
"""Steps of every episode."""


class Deed(NamedTuple):
    """One step."""

    episode: int
    text: str
    hint: str  # empty where the model had none to give
    obeyed: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--episodes", type=int, default=100)
    arguments = parser.parse_args()
    measured = [obedience(run, arguments.episodes) for run in arguments.runs]
    print(results_file.write("obedience", {"episodes": arguments.episodes, "runs": measured}).read_text())


def obedience(run_dir: Path, num_episodes: int) -> Row:
    """Returns what the table above says of the checkpoint that a run is judged by."""
    _, checkpoint = judged_checkpoint(run_dir)
    with serving(checkpoint, EvaluateConfig(run_dir=run_dir), with_hints=True) as served:
        envs = _begun(checkpoint, num_episodes)
        deeds = play(served, service_hints(served.client, envs[0].task), envs)
    success_rate, config = _success_rate(envs), checkpoint.state.config
    for env in envs:
        env.close()
    said = {name: config.get(name) for name in ("env_id", "seed", "guidance", "guidance_reward")}
    return {**said, "steps": checkpoint.state.step, "success_rate": success_rate, **summary(deeds)}


def play(served: ServedPolicy, source: HintSource, envs: list[TextEnv]) -> list[Deed]:
    """Returns all steps of the episodes that `envs` have begun, seeds from 900,000 on; plays them to their ends."""
    deeds: list[Deed] = []
    playing, num_turns = dict(enumerate(envs)), 0
    while playing:
        states = [env.state for env in playing.values()]
        seeds = [evaluation_action_seed(FIRST_EVALUATION_SEED + i, env.length) for i, env in playing.items()]
        asked = served.ask(states, Behaviour("sample"), task=envs[0].task, seed=seeds)
        hints = source.hints([Told(state.text, state.actions) for state in states])
        for (i, env), state, hint, result in zip(list(playing.items()), states, hints, asked.results, strict=True):
            named = named_action(hint or "", state.actions)
            deeds.append(Deed(i, state.text, colourless(hint or ""), named == state.actions[result.action]))
            outcome = env.step(result.action)
            if outcome.terminated or outcome.truncated:
                del playing[i]
        num_turns += 1
        if num_turns % SAY_EVERY == 0:
            say(f"{len(deeds):,} steps, {len(playing)} episodes go on")
    return deeds


def colourless(hint: str) -> str:
    """Returns a hint of MiniGrid as it reads of doors and keys of any colour."""
    return " ".join(word for word in hint.split(" ") if word not in COLOR_NAMES)


def summary(deeds: list[Deed]) -> Row:
    """Returns what steps come to, the commonest hints first."""
    steps = Counter(deed.episode for deed in deeds)
    met = Counter(episode for episode, _ in {(deed.episode, deed.text) for deed in deeds})
    due, followed = Counter(deed.hint for deed in deeds), Counter(deed.hint for deed in deeds if deed.obeyed)
    episodes = Counter(hint for hint, _ in {(deed.hint, deed.episode) for deed in deeds})
    return {
        "obeyed": followed.total() / len(deeds),
        "steps_a_state": sum(steps[episode] / met[episode] for episode in steps) / len(steps),
        "by_hint": [
            {"hint": hint, "share": n / len(deeds), "episodes": episodes[hint], "obeyed": followed[hint] / n}
            for hint, n in due.most_common()
        ],
    }


def _begun(checkpoint: Checkpoint, num_episodes: int) -> list[TextEnv]:
    state = checkpoint.state
    envs = [TextEnv(str(state.config["env_id"]), state.env_kwargs, state.memory) for _ in range(num_episodes)]
    for i, env in enumerate(envs):
        env.reset(FIRST_EVALUATION_SEED + i)
    return envs


def _success_rate(envs: list[TextEnv]) -> float | None:
    succeeded = envs[0].successes(np.array([env.episode_return for env in envs]))
    return None if succeeded is None else float(succeeded.mean())


if __name__ == "__main__":
    main()
