"""PostgreSQL and PgBouncer refuse to run as root; here is who runs them then, and where they keep their files."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import OWNED, Account, ServerFailed

NOBODY = Account(user="nobody")
# The kernel still checks files as us, so this works where nobody may not even enter our home directory.
MAPPED = Account(prefix=("unshare", "--user", "--map-user=65534", "--map-group=65534", "--"))


def known() -> bool:
    """Whether our user has a name, without which PostgreSQL does not start."""
    try:
        return bool(pwd.getpwuid(os.geteuid()))
    except KeyError:
        return False


def account_for(binary: Path) -> Account:
    """An account that is not root and may run this binary. Raises :class:`ServerFailed` when there is none."""
    if os.geteuid() != 0 and known():
        return Account()
    for account in [NOBODY, MAPPED] if os.geteuid() == 0 else [MAPPED]:
        if runs(account, binary, "--version").returncode == 0:
            return account
    raise ServerFailed(f"{binary} will not run as root, and can be run neither as nobody nor under unshare --user")


def runs(account: Account, binary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end as that account."""
    owned = [sys.executable, "-IS", str(OWNED), str(os.getpid()), account.user]
    line = [*owned, *account.prefix, str(binary), *arguments]
    return subprocess.run(line, cwd="/", env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False)


@contextmanager
def directory_of(account: Account) -> Generator[Path]:
    """A directory that belongs to the account, outside pytest's own, which only we may enter."""
    directory = Path(tempfile.mkdtemp(prefix="taskq-"))
    try:
        if account.user:
            shutil.chown(directory, account.user)
        yield directory
    finally:
        shutil.rmtree(directory)
