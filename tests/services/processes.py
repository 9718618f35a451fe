"""Processes of this machine, by what their command lines say.

Called by: tests/services. Must not import: backend, worker.
Example: wait_for_end_of(job.id)
"""

from pathlib import Path

from tests.services.waiting import wait_until

LISTEN = "0A"  #: TCP_LISTEN of the kernel's include/net/tcp_states.h
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def wait_for_end_of(text: str) -> None:
    """Until no process mentions `text`: one that was killed has a command line until its memory is free."""
    wait_until(lambda: processes_about(text) == [], f"the end of the processes about {text}")


def processes_about(text: str) -> list[int]:
    """Ids of the living processes whose command line mentions `text`."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if text in _read(path)]


def listening_addresses(pid: int) -> set[str]:
    """Local addresses, in hex as the kernel writes them, on which a process waits for TCP connections."""
    inodes = {_socket_inode(link) for link in Path(f"/proc/{pid}/fd").glob("*")}
    tables = [_read(Path(f"/proc/{pid}/net/{name}")).splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return {row[1].partition(":")[0] for row in rows if row[3] == LISTEN and row[9] in inodes}


def _socket_inode(link: Path) -> str:
    try:
        return link.readlink().name.removeprefix("socket:[").removesuffix("]")
    except OSError:  # closed meanwhile
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it has just ended
        return ""
