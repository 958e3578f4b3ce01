"""PgBouncer in transaction mode, where the system has it."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import Process
from tests.servers.unprivileged import account_for, directory_of


def pgbouncer_binary() -> Path | None:
    """The system's PgBouncer, or what TASKQ_TEST_PGBOUNCER names."""
    named = os.environ.get("TASKQ_TEST_PGBOUNCER") or shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    return Path(named) if named else None


@contextmanager
def pgbouncer(binary: Path, server: Process, *, pool_size: int = 3) -> Generator[Process]:
    """A PgBouncer before that PostgreSQL; each transaction may be served by another connection."""
    account = account_for(binary)
    with directory_of(account) as directory:

        def command(port: int) -> list[str]:
            settings = directory / "pgbouncer.ini"
            settings.write_text(
                f"[databases]\npostgres = host=127.0.0.1 port={server.port} dbname=postgres user=postgres\n"
                f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
                f"pool_mode = transaction\ndefault_pool_size = {pool_size}\nmax_client_conn = 200\n"
                # Else it tells clients for 15 seconds of a server that was away.
                "server_login_retry = 1\n"
            )
            return [str(binary), str(settings)]

        def answers(bouncer: Process) -> bool:
            return f"[{bouncer.pid}] LOG process up" in bouncer.log()

        url = "postgresql://postgres@127.0.0.1:{port}/postgres"
        with Process(directory, command, url=url, answers=answers, account=account) as bouncer:
            yield bouncer
