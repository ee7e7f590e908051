"""Guided environments of CartPole, with stand-ins for what says the hints and for what pays for them."""

from worker.envs import TextEnvs
from worker.guidance.guided_envs import GuidedEnvs
from worker.guidance.settings import GuidanceSettings
from worker.stopwatch import Stopwatch
from worker.text_env import State

NUM_ENVS = 3
LEFT_RIGHT = ("push left", "push right")


class Source:
    """Says what state it was asked about, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def hints(self, states):
        self.asked.append([state.text for state in states])
        return [f"about {state.text}" for state in states]


class Earned:
    """Pays 1 for every move, and keeps them."""

    def __init__(self):
        self.begun, self.moves, self.remembered = [], [], {}

    def begin(self, states):
        self.begun.append(dict(states))

    def follow(self, moves):
        self.moves.append(dict(moves))
        return dict.fromkeys(moves, 1.0)

    def memory(self, i):
        return 10.0 + i

    def remember(self, i, memory):
        self.remembered[i] = memory


def guided(source=None, earned=None, *, max_episode_steps=5, total_steps=100, run_seed=1, **settings):
    envs = TextEnvs(
        "CartPole-v1", num_envs=NUM_ENVS, run_seed=run_seed, env_kwargs={"max_episode_steps": max_episode_steps}
    )
    return GuidedEnvs(
        envs,
        source or Source(),
        earned,
        GuidanceSettings(**{"guidance": "both", **settings}),
        run_seed=run_seed,
        total_steps=total_steps,
        stopwatch=Stopwatch(),
    )


def states_of(*texts):
    return {i: State(text, LEFT_RIGHT) for i, text in enumerate(texts)}
