"""The `python` tool of gpt-oss: cells of a notebook, run by a Python that can reach nothing of the machine.

    tool.py          what the model is told, what it wrote read as code, and the `Tool` made of both
    session.py       the interpreter of one conversation as its caller sees it: started, asked, stopped, ended
    ── a process of its own (`python -I -S`, an empty environment, no files of ours open) ──
    keeper.py        the supervisor: it makes the sandbox, hands cells in, watches every limit, and takes all down
    linux_root.py    a Linux sandbox: which files are there; linux.py: namespaces, and who is in them
    seccomp.py       a Linux sandbox: which system calls are not
    seatbelt.py      a macOS sandbox: the profile for sandbox-exec
    processes.py     which processes there are in it, and what they take
    ── within the sandbox ──
    worker.py        the interpreter: runs cells, keeps their names

What the sandbox promises, whatever the code does:

- no network, not even to this machine; no file is there but the interpreter, its libraries and the system's programs,
  read-only, and a scratch folder in memory; the user's home does not exist in it; no variable of the environment;
- none of the machine's other processes can be seen, signalled or traced; no privilege can be had;
- wall time, CPU time, memory, processes, output, files and scratch are bounded;
- everything in it ends with the conversation, with the program that began it (however that ends), and what a cell
  leaves running ends with the cell. Between cells the interpreter is stopped.

On Linux it is made of namespaces, which need user namespaces that anyone may make; nothing is installed and no setuid
program is used, so it either works everywhere in the same way or says that it does not. Whether it can be made is found
out by making it. The kernel is trusted; its memory for pipes and sockets (about 1 GB at worst) is not counted.

On macOS it is a profile of sandbox-exec, in which processes cannot be made, the scratch is a private folder on disk,
and its size and the memory are looked at several times a second. That part is checked by tests that run on a Mac only.

Nothing is exported here: the supervisor imports the package without what it is installed with.
"""
