"""Films of real environments, played by a service in this process."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from hintwise.schemas import GuidanceResponse
from worker.config import EvaluateConfig, TrainConfig
from worker.errors import CheckpointUnusable, NotRecorded, UsageError
from worker.evaluate import evaluate
from worker.experiment_config import RecordConfig
from worker.recording.episode import Moment
from worker.recording.film import check_film, write_film
from worker.recording.picture import (
    FRAME_HEIGHT,
    MAX_ACTIONS,
    MAX_FRAME_WIDTH,
    Composer,
    clipped,
    fitted,
    font,
    rows,
    wrapped,
)
from worker.recording.record import record
from worker.text_env import TextEnv
from worker.train import train


def trained(run_dir, model_dir, connect, **settings):
    """A run of one update."""
    config = TrainConfig(
        env_id="CartPole-v1",
        total_steps=64,
        num_envs=4,
        num_steps=16,
        minibatch_size=64,
        update_epochs=1,
        env_workers=0,
        model=str(model_dir),
        run_dir=run_dir,
        **settings,
    )
    train(config, connect=connect)
    return config.directory


@pytest.fixture
def run_dir(tmp_path, model_dir, connect):
    return trained(tmp_path / "run", model_dir, connect)


def test_the_film_shows_the_episode_that_evaluate_plays(run_dir, connect, capsys):
    for greedy in (True, False):
        evaluate(EvaluateConfig(run_dir=run_dir, episodes=1, seed=900_003, greedy=greedy), connect=connect)
        played = json.loads(capsys.readouterr().out.splitlines()[-1])["mean_return"]
        record(RecordConfig(run_dir=run_dir, seed=900_003, greedy=greedy, fps=10), connect=connect)
        said = capsys.readouterr()
        assert said.out == f"{run_dir / 'episode.gif'}\n"
        assert f"{played:g} steps, return {played:g}: ended" in said.err
        with Image.open(run_dir / "episode.gif") as film:
            assert film.n_frames == played + 1  # each state, and the last one
            assert film.info["duration"] == 100
            film.seek(film.n_frames - 1)
            assert film.info["duration"] == 1_600  # it stays
    assert not list(run_dir.glob(".episode*"))


def test_bars_of_action_values_are_called_so(tmp_path, run_dir, model_dir, connect, monkeypatch):
    headings = []
    monkeypatch.setattr("worker.recording.record.write_film", lambda *_, **__: None)
    monkeypatch.setattr("worker.recording.record.Composer", lambda title, by, odds, **_: headings.append(odds))
    for directory in (run_dir, trained(tmp_path / "sarsa", model_dir, connect, algorithm="sarsa")):
        record(RecordConfig(run_dir=directory), connect=connect)
    assert headings == ["action probabilities", "softmax of the action values"]


def test_a_long_episode_is_cut(run_dir, connect, tmp_path, capsys):
    record(RecordConfig(run_dir=run_dir, max_steps=3, out=tmp_path / "cut" / "it.gif"), connect=connect)
    assert "3 steps, return 3: the film ends here" in capsys.readouterr().err
    with Image.open(tmp_path / "cut" / "it.gif") as film:
        assert film.n_frames == 4


def test_hints_are_asked_for_and_not_told_to_the_policy(run_dir, service, connect, monkeypatch):
    asked, told = [], []

    def guidance(observations, actions, *, task, temperature, max_new_tokens):
        asked.append((observations, actions, task, temperature))
        hint = {"text": "push right now", "log_prob": -1.0, "finish_reason": "stop"}
        return GuidanceResponse(model="m", model_sha256="s", results=[{"hints": [hint]}])

    act = service.act
    monkeypatch.setattr(service, "guidance", guidance, raising=False)
    monkeypatch.setattr(
        service, "act", lambda texts, *rest, **more: told.append((texts, more)) or act(texts, *rest, **more)
    )
    drawn = []
    monkeypatch.setattr("worker.recording.record.write_film", lambda out, pictures, fps: drawn.extend(pictures))
    record(RecordConfig(run_dir=run_dir, hints=True, max_steps=2, fps=1), connect=connect)
    assert [observations for observations, *_ in asked] == [texts for texts, _ in told]
    assert asked[0][1:] == (["push left", "push right"], "Keep the pole upright.", 0.0)
    assert all(more.get("hints") is None for _, more in told)
    with_hints = drawn[0]
    drawn.clear()
    record(RecordConfig(run_dir=run_dir, max_steps=2, fps=1), connect=connect)
    assert len(asked) == 2
    assert drawn[0].tobytes() != with_hints.tobytes()


def test_a_directory_without_a_checkpoint(tmp_path, connect):
    with pytest.raises(CheckpointUnusable, match="holds no checkpoint"):
        record(RecordConfig(run_dir=tmp_path), connect=connect)


def test_the_ending_says_what_is_written(run_dir, connect, tmp_path):
    with pytest.raises(UsageError, match=r"it\.mkv: the ending says what is written; use \.gif or \.mp4"):
        record(RecordConfig(run_dir=run_dir, out=tmp_path / "it.mkv"), connect=connect)


def test_an_mp4_needs_its_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(NotRecorded, match="pip install imageio-ffmpeg; or write a"):
        check_film(tmp_path / "it.mp4")


def test_an_mp4_has_every_picture(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    pictures = [Image.new("RGB", (64, 48), (value, 0, 0)) for value in range(0, 250, 10)]
    write_film(tmp_path / "it.mp4", pictures, fps=10)
    num_pictures, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "it.mp4"))
    assert (num_pictures, seconds) == (len(pictures), pytest.approx(len(pictures) / 10))


def test_a_film_that_fails_leaves_the_one_before(tmp_path):
    path = tmp_path / "it.gif"
    path.write_text("before")

    def pictures():
        yield Image.new("RGB", (4, 4))
        raise NotRecorded("lost")

    with pytest.raises(NotRecorded):
        write_film(path, pictures(), fps=1)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_do_not_stay_shorter_than_browsers_allow(tmp_path):
    write_film(tmp_path / "it.gif", [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")], fps=100)
    with Image.open(tmp_path / "it.gif") as film:
        assert film.info["duration"] == 20


def test_an_environment_that_draws_nothing_is_named():
    env = TextEnv("FrozenLake-v1", {"render_mode": "ansi"})
    env.reset(900_000)
    with pytest.raises(NotRecorded, match=r"FrozenLake-v1 draws no picture: its render modes are \['human', 'ansi'"):
        env.picture()
    env.close()


def test_an_environment_that_lacks_a_package_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = TextEnv("CartPole-v1", {"render_mode": "rgb_array"})
    env.reset(900_000)
    with pytest.raises(NotRecorded, match="CartPole-v1 cannot be drawn: pygame is not installed"):
        env.picture()


def moment(probabilities, action=None, text="a state", hint=None, frame=(160, 160)):
    return Moment(np.zeros((*frame, 3), np.uint8), text, hint, probabilities, action, 0, 0.0, None)


def composed(*moments, num_actions=2, with_hints=False):
    composer = Composer("Env-v0", "PPO", "odds", num_actions=num_actions, with_hints=with_hints)
    return [composer.compose(each) for each in moments]


def test_all_pictures_of_an_episode_are_of_one_even_size():
    long = "word " * 500
    odds = {f"action {k} with a name too long for its column": 1 / 12 for k in range(12)}
    moments = [moment(odds, long, long, "h"), moment({}, None), moment({"x": 1.0}, "x", "", long)]
    sizes = {picture.size for picture in composed(*moments, num_actions=12, with_hints=True)}
    assert len(sizes) == 1
    assert not any(side % 2 for side in sizes.pop())


def bar_pixels(picture, colour):
    return int((np.asarray(picture) == colour).all(axis=2).sum())


def test_bars_are_as_long_as_actions_are_likely():
    chosen, other = (11, 79, 138), (169, 191, 216)
    quarter, half = composed(moment({"a": 0.25, "b": 0.75}, "b"), moment({"a": 0.5, "b": 0.5}, "b"))
    assert bar_pixels(half, other) == pytest.approx(2 * bar_pixels(quarter, other), rel=0.05)
    assert bar_pixels(quarter, chosen) > bar_pixels(half, chosen)


def test_the_likeliest_actions_have_room_and_the_one_that_was_taken():
    odds = {f"a{k}": k / 66 for k in range(12)}
    shown, rest = rows(odds, "a0")
    assert [name for name, _ in shown] == ["a0", *(f"a{k}" for k in range(5, 12))]
    assert len(shown) == MAX_ACTIONS
    assert rest == pytest.approx(sum(k / 66 for k in range(1, 5)))
    assert rows({"a": 1.0}, "a") == ([("a", 1.0)], None)


def test_texts_are_cut_with_an_ellipsis():
    letters = font(15)
    assert wrapped("short", letters, 200, 2) == ["short"]
    lines = wrapped("many words " * 20, letters, 200, 2)
    assert len(lines) == 2
    assert lines[1].endswith("…")
    assert all(letters.getlength(line) <= 200 for line in lines)
    assert clipped("x" * 100, letters, 100).endswith("…")
    assert wrapped("", letters, 200, 2) == [""]


@pytest.mark.parametrize("shape", [(400, 600), (160, 160), (456, 536), (20, 500), (500, 20), (1, 1)])
def test_frames_fit(shape):
    frame = fitted(np.zeros((*shape, 3), np.uint8))
    assert 0 < frame.height <= FRAME_HEIGHT
    assert 0 < frame.width <= MAX_FRAME_WIDTH
    assert frame.width % 2 == 0


def test_the_pixels_of_a_small_frame_stay_alike():
    stripes = np.zeros((190, 190, 3), np.uint8)
    stripes[:, ::2] = 255
    row = np.asarray(fitted(stripes))[0, :, 0]
    edges = np.flatnonzero(np.diff(row.astype(int)))
    assert set(np.diff(edges)) == {2}
