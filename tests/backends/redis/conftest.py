from tests.servers.fixtures import own_redis as own_redis
from tests.servers.fixtures import redis70 as redis70
from tests.servers.fixtures import redis82 as redis82
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import valkey_cluster as valkey_cluster
