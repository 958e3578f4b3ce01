"""``taskq defer``: a call from the shell is checked as one in code is."""

import pytest

from tests.cli.shell import Shell


def test_a_call_is_deferred_with_its_options_and_run(shell: Shell) -> None:
    options = ["--queue", "news", "--delay", "1h", "--priority", "7", "--id", "one", "--unique-key", "ada"]
    ran = shell.run("defer", "shop.send", '{"to": "ada", "copies": 2}', "--app", "shop:app", *options)
    assert ran.out == "one\n"
    (stored,) = shell.json("jobs", "news")
    assert stored["args"] == {"to": "ada", "copies": 2}
    assert (stored["state"], stored["priority"], stored["unique"] is not None) == ("later", 7, True)


def test_an_array_and_stdin_are_arguments_too(shell: Shell) -> None:
    shell.run("defer", "shop.send", '["ada", 2]', "--app", "shop", "--id", "1")
    shell.run("defer", "shop.send", "-", "--id", "2", stdin='{"to": "bob"}', TASKQ_APP="shop")
    assert [stored["args"] for stored in shell.json("jobs", "mail")] == [{"to": "ada", "copies": 2}, {"to": "bob"}]


def test_a_job_of_equal_arguments_is_not_added_again(shell: Shell) -> None:
    first, second = (
        shell.json("defer", "shop.send", '{"to": "ada"}', "--app", "shop", "--unique")[0] for _ in range(2)
    )
    assert first["added"]
    assert second == first | {"added": False}


def test_a_moment_is_given_with_its_time_zone(shell: Shell) -> None:
    shell.run("defer", "shop.send", '{"to": "ada"}', "--app", "shop", "--run-at", "2100-01-31T08:00+01:00")
    assert [stored["due"] for stored in shell.json("jobs", "mail")] == [4105062000.0]
    naive = shell.run("defer", "shop.send", "{}", "--app", "shop", "--run-at", "2100-01-31T08:00", code=2)
    assert "give a datetime with a time zone" in naive.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shop.nosuch"], "no task is named 'shop.nosuch' (known: shop.fail, shop.send, shop.wait_for)"),
        (["shop.send", '{"to": 3}'], "to: Expected `str`, got `int`"),
        (["shop.send", "{}"], "missing a required argument: 'to'"),
        (["shop.send", '{"to": "ada", "too": 1}'], "unexpected keyword argument 'too'"),
        (["shop.send", "{to: ada}"], "the arguments are no JSON object or array: JSON is malformed"),
        (["shop.send", '"ada"'], "Expected `object | array`, got `str`"),
        (["shop.send", '{"to": "ada"}', "--queue", "a b"], "queue name 'a b'"),
        (["shop.send", '{"to": "ada"}', "--delay", "soon"], "'soon' is no duration"),
        (["shop.send", '{"to": "ada"}', "--run-at", "noon"], "'noon': Invalid isoformat"),
        (["shop.send", '{"to": "ada"}', "--delay", "1", "--run-at", "2100-01-31T08:00Z"], "delay and run_at"),
        (
            ["shop.send", '{"to": "ada"}', "--expires-in", "1", "--expires-at", "2100-01-31T08:00Z"],
            "expires_in and expires_at",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line_before_anything_is_sent(
    shell: Shell, arguments: list[str], words: str
) -> None:
    ran = shell.run("defer", *arguments, "--app", "shop", code=2)
    assert words in ran.err
    assert ran.err.count("\n") == 1
    assert not (shell.directory / "queue.db").exists()
