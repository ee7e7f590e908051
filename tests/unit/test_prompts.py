from hintwise.prompts import action_prompt, continuation, guidance_prompt, progress_prompt


def test_the_layout_of_each_prompt():
    assert action_prompt("pole 12") == "state: pole 12\naction:"
    assert action_prompt("pole 12", task="Balance.", hint="push right") == (
        "task: Balance.\nstate: pole 12\nhint: push right\naction:"
    )
    assert guidance_prompt("pole 12", task="Balance.", actions=["a", "b"]) == (
        "task: Balance.\nactions: a, b\nstate: pole 12\nhint:"
    )
    assert progress_prompt("pole 12", "push right") == "state: pole 12\nhint: push right\ndone:"


def test_an_empty_hint_is_no_hint():
    assert action_prompt("pole 12", hint="") == action_prompt("pole 12", hint=None)


def test_the_prompt_for_a_hint_begins_the_prompt_for_an_action():
    assert action_prompt("x", task="t", hint="go").startswith(guidance_prompt("x", task="t"))


def test_a_phrase_continues_after_a_space():
    assert continuation("push left") == " push left"
