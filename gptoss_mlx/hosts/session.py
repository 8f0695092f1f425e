"""A model on several hosts, from the front end's side: looked at once, loaded, and loaded again when hosts were lost.

Owns: what stays the same over all of that (which hosts, which parts, how much context), and the ranks that were started
and not given to a model yet. Does not own: the steps (`start`), the model that comes of them (`remote_model`).
"""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.distributed.plan import Mode
from gptoss_mlx.errors import Cancelled
from gptoss_mlx.hosts.addresses import Host, read_hosts
from gptoss_mlx.hosts.cluster import Cluster
from gptoss_mlx.hosts.options import HostOptions
from gptoss_mlx.hosts.remote_model import RemoteModel
from gptoss_mlx.hosts.sharing import Sharing, measure, share_model
from gptoss_mlx.hosts.start import (
    PATIENCE_SECONDS,
    Stage,
    check_model_there,
    describe,
    find_model_there,
    join,
    load_parts,
    open_cluster,
    verify_model_there,
)


class HostedModel:
    """One model on several hosts."""

    def __init__(
        self,
        hosts: Sequence[Host],
        name: str,
        folder: Path,
        config: ModelConfig,
        *,
        mode: Mode | None = None,
        patience_seconds: float | None = None,
        stage: Stage = lambda sentence: None,
    ) -> None:
        """Starts ranks on the hosts, checks them and decides what each gets; loads nothing yet.

        `name` is what the model was asked for as, `folder` where it is here; `mode` by itself is what seems faster.
        `stage` hears what begins, here and at every later start. Raises UsageError, HostsError, ModelNotFound,
        ChecksumError, NotEnoughMemory.
        """
        patience = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
        self.hosts = tuple(hosts)
        self._name, self._folder, self._config = name, folder, config
        self._mode: Mode | None = mode
        self._patience, self._stage = patience, stage
        self._lock = threading.Lock()
        self._closed = False
        self._cluster: Cluster | None = None
        """The ranks, once they have joined; of the model, once that is loaded."""
        self._waiting = False
        """Whether they wait for a model to be loaded."""
        self._folders: list[str] = []
        self._start(None)
        self.sharing: Sharing = self._sharing
        """Which host gets what."""

    def load(self, progress: Callable[[int, int], None] | None = None) -> RemoteModel:
        """The model, loaded on all hosts; the ranks are started again where there are none. Raises as the constructor,
        what loading raises, and HostLost.
        """
        with self._lock:
            cluster, waiting, self._waiting = self._cluster, self._waiting, False
        if not waiting or cluster is None or cluster.closed:
            self._start(self._sharing)
            with self._lock:
                cluster, self._waiting = self._cluster, False
        assert cluster is not None
        self._stage("loading the model")
        try:
            return load_parts(cluster, self._config, self._folders, self._sharing.plan, progress)
        except BaseException:
            cluster.close()
            raise

    @property
    def memory(self) -> list[tuple[int, int, int]]:
        """What MLX holds on each rank: now, kept of freed memory, at most since the last turn began."""
        cluster = self._cluster
        return [] if cluster is None or cluster.closed else cluster.memory

    @property
    def pids(self) -> list[int]:
        """The number of each rank's process on its host; empty where none run."""
        cluster = self._cluster
        return [] if cluster is None or cluster.closed else cluster.pids

    def close(self) -> None:
        """Ends the ranks, and starts none any more."""
        with self._lock:
            self._closed = True
            cluster = self._cluster
        if cluster is not None:
            cluster.close()

    def _start(self, sharing: Sharing | None) -> None:
        """Ranks that have joined, in place of those before; what each gets is decided where it was not."""
        cluster = open_cluster(self.hosts, patience_seconds=self._patience, stage=self._stage)
        try:
            facts = describe(cluster)
            found = find_model_there(cluster, self._name, self._folder)
            check_model_there(cluster, self._name, self._folder, found)
            verify_model_there(cluster, found, self._stage)
            join(cluster, self._stage)
            if sharing is None:
                self._stage("measuring the link between the hosts")
                sharing = share_model(self._folder, self._config, facts, measure(cluster), self._mode)
            self._sharing = sharing
            self._folders = [there.folder or "" for there in found]
            with self._lock:
                if self._closed:
                    raise Cancelled("the model was closed while its hosts were being started")
                self._cluster, self._waiting = cluster, True
        except BaseException:
            cluster.close()
            raise


def open_hosts(
    hosts: str | os.PathLike[str] | Sequence[str], name: str, folder: Path, config: ModelConfig, how: HostOptions
) -> HostedModel:
    """The model on the hosts that are named. Once `how.stopped` says so, starting them ends.

    Raises as `HostedModel` and `read_hosts`, and Cancelled.
    """

    def stage(sentence: str) -> None:
        if how.stopped():
            raise Cancelled("starting the hosts was stopped")
        if how.starting is not None:
            how.starting(sentence)

    return HostedModel(
        read_hosts(hosts), name, folder, config, mode=how.mode, patience_seconds=how.timeout_seconds, stage=stage
    )
