"""Installs the project into the environment that runs this file: `run` what a user needs, `dev` the tools too."""

import subprocess
import sys
import tomllib
from pathlib import Path


def main() -> int:
    what = sys.argv[1]
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    packages = ["-e", "."]
    if what == "dev":
        # pip learned `--group` in 25.1 only; reading the group ourselves works with every pip.
        packages += project["dependency-groups"]["dev"]
    print(f"Installing gptoss-mlx{' and the development tools' if what == 'dev' else ''} into .venv ...", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    code = subprocess.call(command)
    if code:
        print(f"error: the installation failed (pip exit {code}); the lines above say why.", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
