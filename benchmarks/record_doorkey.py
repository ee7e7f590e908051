"""Records what a policy is asked in MiniGrid's DoorKey, for benchmarks/repeats.py.

    pip install minigrid            which nothing else here needs
    python -m benchmarks.record_doorkey

Three streams of observations go to benchmarks/data/doorkey_stream.json.gz, from 8 environments stepped together, so
that entries 8 t to 8 t + 7 are what one request of step t would carry. Their lengths were chosen for their shares of
distinct texts, which fall the longer one records:

    random_5x5      4,096 of DoorKey-5x5, uniformly random actions; about 2% distinct: so small a map has few views
    random_8x8      8,192 of DoorKey-8x8, uniformly random actions, as before learning; about 7% distinct
    scripted_8x8    1,792 of DoorKey-8x8, shortest paths to key, door and goal with one action in five random, as
                    after learning; about 35% distinct

The text tells of the agent's own partial view alone: what is seen and where, how far the walls are, what is carried.
"""

from __future__ import annotations

import argparse
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.doorkey_stream import PATH, RecordedStream, write_streams

NUM_ENVIRONMENTS = 8
LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE, NO_OP = range(7)
RANDOM_SHARE = 0.2
STEPS = {"ahead": (0, -1), "left": (-1, 0), "right": (1, 0)}
Cell = tuple[int, int]
Act = Callable[[Any, random.Random], int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    streams = {
        "random_5x5": _record("MiniGrid-DoorKey-5x5-v0", _random_action, 4_096, arguments.seed),
        "random_8x8": _record("MiniGrid-DoorKey-8x8-v0", _random_action, 8_192, arguments.seed),
        "scripted_8x8": _record("MiniGrid-DoorKey-8x8-v0", _scripted_action, 1_792, arguments.seed),
    }
    write_streams(streams, seed=arguments.seed)
    for name, stream in streams.items():
        print(f"{name}: {len(stream.order)} observations, {stream.distinct_share:.1%} distinct -> {PATH}")


def _record(env_id: str, act: Act, num_steps: int, seed: int) -> RecordedStream:
    import gymnasium
    import minigrid  # noqa: F401 (registers its environments)

    environments = [gymnasium.make(env_id) for _ in range(NUM_ENVIRONMENTS)]
    players = [_play(env, act, seed * 1_000 + i) for i, env in enumerate(environments)]
    texts: dict[str, int] = {}
    order = [
        texts.setdefault(next(player), len(texts)) for _ in range(num_steps // NUM_ENVIRONMENTS) for player in players
    ]
    level: Any = environments[0].unwrapped
    return RecordedStream(
        env_id=env_id,
        task=level.mission,
        actions=("turn left", "turn right", "move forward", "pick up", "drop", "toggle", "wait"),
        texts=tuple(texts),
        order=tuple(order),
    )


def _play(env: Any, act: Act, seed: int) -> Iterator[str]:
    """Yields the description of each observation, episode after episode, without end."""
    generator = random.Random(seed)
    observation, _ = env.reset(seed=seed)
    while True:
        yield describe(observation["image"])
        observation, _, terminated, truncated, _ = env.step(act(env, generator))
        if terminated or truncated:
            observation, _ = env.reset()


def describe(image: Any) -> str:
    """Returns a view in words. The agent stands in the middle of the nearest row and looks ahead.

    Args:
        image: (7, 7, 3) object, colour and state of each cell, as MiniGrid encodes them.
    """
    from minigrid.core.constants import IDX_TO_OBJECT

    width, depth, _ = image.shape
    agent = (width // 2, depth - 1)
    seen = [text for kind in ("key", "door", "goal") for text in _seen(image, kind, agent) or [f"no {kind}"]]
    walls = [f"{name} {_steps_to_wall(image, agent, step)}" for name, step in STEPS.items()]
    carried = IDX_TO_OBJECT[int(image[agent][0])]
    return f"{', '.join(seen)}; wall {' '.join(walls)}; carry {carried if carried == 'key' else 'not'}"


def _seen(image: Any, kind: str, agent: Cell) -> list[str]:
    """Returns each thing of a kind in view and where it is; what the agent carries is not in front of it."""
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT

    found = []
    for cell, (number, colour, state) in _cells(image):
        if IDX_TO_OBJECT[number] == kind and cell != agent:
            name = kind if kind == "goal" else f"{IDX_TO_COLOR[colour]} {kind}"
            condition = f" {('open', 'close', 'locked')[state]}" if kind == "door" else ""
            found.append(f"{name}{condition} {_where(cell[0] - agent[0], agent[1] - cell[1])}")
    return found


def _steps_to_wall(image: Any, agent: Cell, step: Cell) -> int:
    """Returns how many steps lead to a wall, or to where nothing is seen."""
    from minigrid.core.constants import IDX_TO_OBJECT

    width, _, _ = image.shape
    count, column, row = 1, agent[0] + step[0], agent[1] + step[1]
    while column in range(width) and row >= 0 and IDX_TO_OBJECT[int(image[column, row, 0])] not in ("wall", "unseen"):
        count, column, row = count + 1, column + step[0], row + step[1]
    return count


def _cells(image: Any) -> Iterator[tuple[Cell, tuple[int, int, int]]]:
    width, depth, _ = image.shape
    for column in range(width):
        for row in range(depth):
            number, colour, state = image[column, row].tolist()
            yield (column, row), (number, colour, state)


def _where(across: int, along: int) -> str:
    side = f" {'left' if across < 0 else 'right'} {abs(across)}" if across else ""
    return f"ahead {along}{side}"


def _random_action(env: Any, generator: random.Random) -> int:
    return generator.randrange(env.action_space.n)


def _scripted_action(env: Any, generator: random.Random) -> int:
    """Returns the first action of a shortest path to key, door or goal, whichever is next; at times a random one."""
    if generator.random() < RANDOM_SHARE:
        return _random_action(env, generator)
    inner = env.unwrapped
    cells = {
        thing.type: (index % inner.width, index // inner.width) for index, thing in enumerate(inner.grid.grid) if thing
    }
    door = inner.grid.get(*cells["door"])
    if door.is_open:
        return _towards(inner, cells["goal"], FORWARD)
    if inner.carrying is None:
        return _towards(inner, cells["key"], PICK_UP)
    return _towards(inner, cells["door"], TOGGLE)


def _towards(inner: Any, target: Cell, final: int) -> int:
    """Returns the next action on a shortest path to facing `target`, and there `final`."""
    x, y = inner.agent_pos
    start = ((int(x), int(y)), int(inner.agent_dir))
    queue: deque[tuple[tuple[Cell, int], int | None]] = deque([(start, None)])
    known = {start}
    while queue:
        (cell, direction), first = queue.popleft()
        across, along = ((1, 0), (0, 1), (-1, 0), (0, -1))[direction]
        ahead = (cell[0] + across, cell[1] + along)
        if ahead == target:
            return final if first is None else first
        moves = {LEFT: (cell, (direction - 1) % 4), RIGHT: (cell, (direction + 1) % 4)}
        thing = inner.grid.get(*ahead)
        if thing is None or thing.can_overlap():
            moves[FORWARD] = (ahead, direction)
        for action, state in moves.items():
            if state not in known:
                known.add(state)
                queue.append((state, action if first is None else first))
    return NO_OP  # a dropped key bars the way; a random action will move it


if __name__ == "__main__":
    main()
