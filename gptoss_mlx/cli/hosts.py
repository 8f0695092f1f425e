"""`gptoss hosts check` and `gptoss hosts copy`: several machines for one model."""

import argparse
import json
import sys

from gptoss_mlx.cli.terminal import ProgressBar, StageLine, Style, shown_bytes
from gptoss_mlx.hosts.addresses import one_host, read_hosts
from gptoss_mlx.hosts.checks import as_values, check_hosts
from gptoss_mlx.hosts.delivery import deliver_model
from gptoss_mlx.models import find_model


def run(arguments: argparse.Namespace) -> int:
    """Does what was asked; gives the exit code."""
    return _check(arguments) if arguments.action == "check" else _copy(arguments)


def _check(arguments: argparse.Namespace) -> int:
    """Prints every finding as it is found; 1 when one of them is bad."""
    hosts, model = read_hosts(arguments.hosts), find_model(arguments.model)
    findings, style = [], Style(sys.stdout)
    with StageLine() as stage:
        stage.show("looking at the hosts")
        for finding in check_hosts(hosts, model, name=arguments.model, stage=stage.show):
            findings.append(finding)
            if not arguments.json:
                stage.close()
                mark = "ok  " if finding.ok else style.bold("BAD ")
                print(f"{mark} {finding.host}  {finding.what}: {finding.said}", flush=True)
    well = all(finding.ok for finding in findings)
    if arguments.json:
        print(json.dumps({"ok": well, "model": model.name, "findings": [as_values(found) for found in findings]}))
    elif well:
        print(f"gptoss chat {arguments.model} --hosts {arguments.hosts} is ready to run")
    return 0 if well else 1


def _copy(arguments: argparse.Namespace) -> int:
    """Copies to one host after the other."""
    hosts, model = [one_host(word) for word in arguments.hosts.split(",")], find_model(arguments.model)
    for host in hosts:
        with ProgressBar(f"To {host.name}", unit_bytes=True) as bar:
            delivery = deliver_model(model.folder, host, progress=bar.update)
        sent = "nothing had to be sent"
        if delivery.sent_files:
            sent = f"{delivery.sent_files} files, {shown_bytes(delivery.sent_bytes)} sent"
        print(f"{host.name}: {model.name} is in {delivery.folder}, verified ({sent})", flush=True)
    return 0
