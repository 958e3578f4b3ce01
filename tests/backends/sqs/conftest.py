import os

from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import sqs as sqs

collect_ignore = [] if "TASKQ_TEST_LONG" in os.environ else ["test_sqs_stories.py"]
