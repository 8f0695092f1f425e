"""Names of hosts as people write them."""

import json
from pathlib import Path

import pytest

from gptoss_mlx import HostsError, UsageError
from gptoss_mlx.hosts.addresses import Host, find_addresses, one_host, read_hosts


def test_names_come_in_a_text_or_in_a_list() -> None:
    expected = (Host("mac1", False), Host("me@mac2.local", False, "10.0.0.2"))
    assert read_hosts("mac1, me@mac2.local=10.0.0.2") == expected
    assert read_hosts(["mac1", "me@mac2.local=10.0.0.2"]) == expected


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "me@localhost"])
def test_this_machine_needs_no_ssh(name: str) -> None:
    assert one_host(name).local


def test_a_hostfile_of_mlx_is_read(tmp_path: Path) -> None:
    file = tmp_path / "hosts.json"
    entries = [{"ssh": "mac1", "ips": ["10.0.0.1"], "rdma": []}, {"ssh": "mac2", "ips": []}]
    for values in (entries, {"backend": "ring", "envs": [], "hosts": entries}):
        file.write_text(json.dumps(values))
        assert read_hosts(file) == read_hosts(str(file)) == (Host("mac1", False, "10.0.0.1"), Host("mac2", False))


@pytest.mark.parametrize("hosts", ["mac1", [], "", "mac1,", "mac1,-oProxyCommand=x", "mac1,mac 2", "a,b=mac2", "a,b;c"])
def test_what_is_no_list_of_hosts_is_a_sentence(hosts) -> None:
    with pytest.raises(UsageError, match="expected"):
        read_hosts(hosts)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1, 2]", '[{"ips": []}, {}]', '[{"ssh": "a"}, {"ssh": "b", "ips": ["c"]}]']
)
def test_a_broken_hostfile_is_a_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "hosts.json"
    file.write_text(text)
    with pytest.raises(UsageError, match="expected"):
        read_hosts(file)


def test_a_hostfile_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json cannot be read"):
        read_hosts(tmp_path / "none.json")


def test_ranks_on_this_machine_meet_at_the_loopback() -> None:
    assert [host.address for host in find_addresses(read_hosts("127.0.0.1,localhost"))] == ["127.0.0.1"] * 2


def test_an_address_that_is_given_is_taken() -> None:
    found = find_addresses([one_host("mac1=127.0.0.3"), one_host("localhost")])
    assert [host.address for host in found] == ["127.0.0.3", "127.0.0.1"]


def test_a_name_that_leads_nowhere_is_a_sentence() -> None:
    with pytest.raises(HostsError, match=r"no address for host 'nowhere\.invalid'"):
        find_addresses([one_host("nowhere.invalid"), one_host("localhost")])
