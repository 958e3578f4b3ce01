"""``taskq history``: what became of jobs, from what a worker wrote when it was asked to end."""

from signal import SIGTERM

from taskq.cli.history import bars
from tests.cli.shell import Shell, job


def test_a_worker_that_was_asked_to_end_has_told_what_became_of_its_jobs(shell: Shell) -> None:
    assert shell.run("history", "--since", "10m").out == "Nothing is known of the last 10 m.\n"
    shell.enqueue(*(job(str(n)) for n in range(3)), job("bad", "bad", task="shop.fail", body=b'{"args":{"word":"no"}}'))
    with shell.started("worker", "shop") as worker:
        while any(queue["ready"] + queue["leased"] for queue in shell.json("stats")):
            pass
        worker.send(SIGTERM)
        assert worker.code() == 0
    titles, bad, mail = shell.run("history").out.splitlines()
    assert titles.split()[:6] == ["queue", "task", "returned", "failed", "other", "again"]
    assert bad.split()[:6] == ["bad", "shop.fail", "0", "1", "0", "0"]
    assert mail.split()[:6] == ["mail", "shop.send", "3", "0", "0", "0"]
    (told,) = shell.json("history", "--queue", "mail", "--task", "shop.send", "--since", "1h")
    assert (told["ended"], told["ends"]) == (3, {"returned": 3})
    assert told["run"]["p50"] <= told["run"]["p99"]


def test_marks_are_seen_beside_the_history_once_a_minute_for_each_label(shell: Shell) -> None:
    for label in ("v42", "v42", "v\x37/3"):
        assert shell.run("mark", label).out.endswith(f"  {label}\n")
    told = [(mark["mark"], mark["at"] % 60) for mark in shell.json("history", "--since", "1h")]
    assert told in ([("v42", 0), ("v7/3", 0)], [("v42", 0), ("v42", 0), ("v7/3", 0)])
    titles, graph, *marks = shell.run("history", "--since", "1h").out.splitlines()
    assert titles.split()[0] == "queue"
    assert graph.strip() == "▲"
    assert [mark.split()[-1] for mark in marks] == [label for label, _ in told]
    assert "1 to 100 printable characters" in shell.run("mark", "\x1b[2J", code=2).err


def test_bars_are_as_high_as_their_share_of_the_most() -> None:
    assert bars([0, 1, 4, 8, -1]) == " ▁▄█ "
    assert bars([0, 0]) == "  "
    assert bars([]) == ""
