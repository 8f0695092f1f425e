"""The tree of turns on disk is the tree that a plain model in memory has, whatever is done to it."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.store import Store
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import Message


class Tree:
    """One conversation as the store should have it."""

    def __init__(self) -> None:
        self.turns: dict[int, Turn] = {}
        self.leaf: int | None = None
        self.gone_on: dict[int, int] = {}
        """Turn -> the turn below it on the path that the reader took last."""

    def path(self, turn: int | None) -> list[Turn]:
        found: list[Turn] = []
        while turn is not None:
            found.insert(0, self.turns[turn])
            turn = self.turns[turn].parent
        return found

    def visit(self, turn: int | None) -> None:
        self.leaf = turn
        path = self.path(turn)
        for above, below in itertools.pairwise(path):
            self.gone_on[above.id] = below.id
        if turn is not None:
            self.gone_on.pop(turn, None)

    def deepest(self, turn: int) -> int:
        while turn in self.gone_on:
            turn = self.gone_on[turn]
        return turn

    def siblings(self, turn: int) -> list[int]:
        return [other.id for other in self.turns.values() if other.parent == self.turns[turn].parent]


class Walk:
    """A store and the model of it, moved alike."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ids: list[int] = []
        self.trees: dict[int, Tree] = {}
        self.deleted: set[int] = set()

    def step(self, kind: str, which: int, at: int) -> None:
        if kind == "create" or not self.ids:
            identifier = self.store.create(date="2026-01-31").id
            assert identifier not in self.trees
            self.ids.append(identifier)
            self.trees[identifier] = Tree()
            return
        conversation = self.ids[which % len(self.ids)]
        tree = self.trees[conversation]
        places = [None, *tree.turns]
        place = places[at % len(places)]
        if kind == "delete":
            self.store.delete(conversation)
            self.deleted.add(conversation)
        elif kind == "restore":
            self.store.restore(conversation)
            self.deleted.discard(conversation)
        elif conversation in self.deleted:
            with pytest.raises(UsageError, match="was deleted"):
                self.store.set_leaf(conversation, place)
        elif kind == "leaf":
            self.store.set_leaf(conversation, place)
            tree.visit(place)
        elif kind == "add":
            role = "user" if place is None or tree.turns[place].role == "assistant" else "assistant"
            text = f"turn {len(tree.turns)} of {conversation}"
            turn = Turn(0, place, role, (Message.user(text),), text=text)
            added = self.store.add_turn(conversation, turn)
            assert added == dataclasses.replace(turn, id=added.id, created=added.created)
            tree.turns[added.id] = added
            tree.visit(added.id)
        elif place is not None:
            changed = dataclasses.replace(tree.turns[place], messages=(Message.assistant(f"anew {at}"),), error="why")
            self.store.save_turn(changed)
            tree.turns[place] = changed

    def compare(self) -> None:
        for conversation, tree in self.trees.items():
            if conversation in self.deleted:
                continue
            assert self.store.get(conversation).leaf == tree.leaf
            assert self.store.path(conversation, tree.leaf) == tree.path(tree.leaf)
            assert self.store.branches(list(tree.turns.values())) == {turn: tree.siblings(turn) for turn in tree.turns}
            for turn in tree.turns:
                assert self.store.turn(turn) == tree.turns[turn]
                assert self.store.path(conversation, turn) == tree.path(turn)
                assert self.store.siblings(tree.turns[turn]) == tree.siblings(turn)
                assert self.store.deepest(turn) == tree.deepest(turn)
        said = {conversation for conversation, tree in self.trees.items() if tree.turns}
        assert {summary.id for summary in self.store.list()} == said - self.deleted
        assert {summary.id for summary in self.store.list(deleted=True)} == said & self.deleted


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "add", "add", "add", "add", "leaf", "save", "delete", "restore"]),
        st.integers(0, 3),
        st.integers(0, 30),
    ),
    max_size=40,
)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_branches_leaf_siblings_and_deletion_are_those_of_a_plain_tree(tmp_path_factory: pytest.TempPathFactory, steps):
    path = tmp_path_factory.mktemp("store") / "chats.sqlite3"
    with Store(path) as store:
        walk = Walk(store)
        for step in steps:
            walk.step(*step)
        walk.compare()
    with Store(path) as store:
        walk.store = store
        walk.compare()
