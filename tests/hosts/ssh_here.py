"""A stand-in for ssh: every host is this machine with a home of its own, below the folder in GPTOSS_TEST_HOSTS.

`gone` refuses the connection, `locked` every key. A host's folder may hold `environment.json`: variables of its
processes, and `prefix`: words that their command line begins with. As with ssh, ending this ends the line to what runs
there, and not the process itself.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def main(words: list[str]) -> int:
    resolve = False
    while words and words[0].startswith("-"):
        option = words.pop(0)
        resolve = resolve or option == "-G"
        if option == "--":
            break
        if option == "-o":
            words.pop(0)
    host, *command = words
    if resolve:
        print("hostname 127.0.0.1")
        return 0
    if host == "gone":
        print("ssh: connect to host gone port 22: Connection refused", file=sys.stderr)
        return 255
    if host == "locked":
        print("locked: Permission denied (publickey).", file=sys.stderr)
        return 255
    home = Path(os.environ["GPTOSS_TEST_HOSTS"]) / host
    home.mkdir(exist_ok=True)
    own = home / "environment.json"
    more = json.loads(own.read_text()) if own.is_file() else {}
    # What a login shell may say before anything else.
    print("Welcome!", flush=True)
    environment = {**os.environ, "HOME": str(home), "GPTOSS_HOME": str(home / "gptoss"), **more}
    prefix = (home / "prefix").read_text().split() if (home / "prefix").is_file() else []
    process = subprocess.Popen([*prefix, "sh", "-c", " ".join(command)], env=environment, start_new_session=True)
    # The line is the process's alone: when this one is gone, it ends.
    for descriptor in (0, 1):
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = process.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
