"""From a fresh child to the server's program: executed as a script by `process`, never imported.

Usage: `python -I -S child.py OWNER_PID DEATH_SIGNAL UID GID PROGRAM [ARGUMENT…]`; UID -1 keeps the account.

Why a death signal. An owner that is killed with -9 stops nothing; on Linux the kernel does it in its place
(`prctl(PR_SET_PDEATHSIG)`, which survives exec). Elsewhere the server lives on, and the next start of its
folder stops it. "Parent" means the thread that started the child, which is why `process` gives it one that
stays.

Why a script, not `user=` and `preexec_fn=` of `subprocess`. The signal must be asked for in the child, after
the change of account (which clears it) and before the program; a `preexec_fn` does that, and may deadlock
once the owner has threads. And the interpreter may lie where only root can read: here it is loaded before the
account changes. The price is 15 ms per start.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(owner: int, death_signal: int, uid: int, gid: int, command: list[str]) -> None:
    """Become `command`, run by `uid` and `gid` with no other group, and ended with its owner."""
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # A blocked signal stays blocked across exec, and Redis would never hear that it shall stop.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != owner:
            sys.exit("the owner died before its server had started")
    os.execv(command[0], command)  # noqa: S606 - to become another program is the purpose


if __name__ == "__main__":
    owner, death_signal, uid, gid = map(int, sys.argv[1:5])
    main(owner, death_signal, uid, gid, sys.argv[5:])
