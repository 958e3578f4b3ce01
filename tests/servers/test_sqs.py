import json
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.servers.process import Process
from tests.servers.sqs import sqs as emulator


def call(server: Process, action: str, **arguments: object) -> Any:
    """One call of the SQS JSON protocol."""
    headers = {"X-Amz-Target": f"AmazonSQS.{action}", "Content-Type": "application/x-amz-json-1.0"}
    request = urllib.request.Request(server.url, json.dumps(arguments).encode(), headers)
    with urllib.request.urlopen(request, timeout=10.0) as answer:
        return json.load(answer)


def test_a_message_sent_is_received(sqs: Process) -> None:
    queue = call(sqs, "CreateQueue", QueueName="received")["QueueUrl"]
    call(sqs, "SendMessage", QueueUrl=queue, MessageBody="hello")
    received = call(sqs, "ReceiveMessage", QueueUrl=queue, WaitTimeSeconds=5)
    assert [message["Body"] for message in received["Messages"]] == ["hello"]


def test_a_killed_emulator_comes_back_empty(tmp_path: Path) -> None:
    with emulator(tmp_path) as server:
        port = server.port
        queue = call(server, "CreateQueue", QueueName="forgotten")["QueueUrl"]
        server.kill()
        server.start()
        assert server.port == port
        with pytest.raises(HTTPError, match="400"):
            call(server, "SendMessage", QueueUrl=queue, MessageBody="hello")


def test_an_emulator_stops_when_asked(tmp_path: Path) -> None:
    with emulator(tmp_path) as server:
        server.stop()
        assert not server.running
