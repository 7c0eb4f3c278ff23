"""Batch rules and gates: the built-in ones, and a user's own from ``module:Class``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers import AlignmentConfig, BatchSelector, Decision, Gate, PersonaAlignment, examples
from optimizers.batches import BATCH_RULES, Balanced, Hardest, Latest
from optimizers.config import make_plan
from optimizers.gates import GATES, Always, Best
from program.answers import Labels
from program.errors import ConfigError
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.task import Item, Task
from program.tools import default_tools

TASK = Task(
    name="weather",
    question="Rain or sun?",
    answer=Labels(("rain", "sun")),
    read_item=lambda item: Item(item["query"], item["response"]),
    read_query=str.strip,
)
SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=20)
OWN = """
from dataclasses import dataclass
from typing import ClassVar

from optimizers import BatchSelector, Decision, Gate


@dataclass(frozen=True)
class Careful(Gate):
    margin: float = 0.1
    needs_scores: ClassVar[bool] = True

    def decide(self, parent, candidate):
        gain = sum(candidate) / len(candidate) - sum(parent) / len(parent)
        return Decision(accept=gain > self.margin, reason=f"gain {gain:.2f}")


class Oldest(BatchSelector):
    def select(self, trainset, scores, size):
        return list(trainset[:size])
"""


def trainset(responses: Sequence[str]) -> list[dspy.Example]:
    return [
        dspy.Example(query=f"q{n}", response=response, before=f"i{n}").with_inputs("query", "before")
        for n, response in enumerate(responses)
    ]


def ids(batch: Sequence[dspy.Example]) -> list[str]:
    return [example.before for example in batch]


@pytest.fixture
def own_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "alignment_rules.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("alignment_rules", None)


def align(tmp_path: Path, answer: str = "rain", **options: Any) -> Any:
    """Align a user whose model always gives ``answer`` and always writes the same rewrite."""

    def reply(system: str, user: str) -> Any:
        if "critical evaluator" in system:
            return "feedback"
        if "refine the system prompt" in system:
            return "rewrite"
        return {"thought": "", "action": {"tool": "finish", "answer": answer}}

    history = [
        Interaction(id=f"i{n}", user_id="u", query=f"day {n}", response=response)
        for n, response in enumerate(["rain", "sun", "sun", "rain"])
    ]
    memory = EpisodicMemory("u", history)
    from program.agent import PersonaAgent

    tools = default_tools(tmp_path, wikipedia=False)
    agent = PersonaAgent.for_user("u", memory, tools, task=TASK, persona="parent")
    with dspy.context(lm=scripted_lm(reply)):
        return PersonaAlignment(**options).compile(agent, trainset=examples(memory, TASK))


def test_latest_takes_the_newest_in_order() -> None:
    assert ids(Latest().select(trainset("aabba"), [], 2)) == ["i3", "i4"]
    assert ids(Latest().select(trainset("a"), [], 3)) == ["i0"]


def test_balanced_takes_the_newest_of_each_response_first() -> None:
    assert ids(Balanced().select(trainset("abaaa"), [], 2)) == ["i1", "i4"]
    assert ids(Balanced().select(trainset("abaaa"), [], 4)) == ["i1", "i2", "i3", "i4"]


def test_hardest_takes_the_lowest_scores_of_its_pool_and_the_newest_of_equal_ones() -> None:
    batch = Hardest().select(trainset("aaaaaa"), [0.5, 0.0, None, 0.0, 1.0], 2)
    # The pool is the last five examples: i1 to i5. The two zeros are i2 and i4.
    assert ids(batch) == ["i2", "i4"]
    assert ids(Hardest().select(trainset("aaaaaa"), [0.0, 0.0, 0.0], 2)) == ["i4", "i5"]


def test_hardest_falls_back_to_the_latest_if_nothing_was_scored() -> None:
    assert ids(Hardest().select(trainset("aaa"), [None, None], 2)) == ["i1", "i2"]


def test_hardest_refuses_an_empty_pool() -> None:
    with pytest.raises(ConfigError, match="`pool_factor` must be 1 or more, got 0"):
        Hardest(pool_factor=0)


@given(responses=st.lists(st.sampled_from("abc"), min_size=1, max_size=30), size=st.integers(1, 8))
@pytest.mark.parametrize("rule", [Latest(), Balanced(), Hardest(2)], ids=["latest", "balanced", "hardest"])
def test_every_rule_keeps_its_contract(rule: BatchSelector, responses: list[str], size: int) -> None:
    data = trainset(responses)
    pool = min(rule.pool_size(size), len(data))
    scores = [(n % 3) / 2 if n % 4 else None for n in range(pool)]
    batch = ids(rule.select(data, scores, size))
    assert batch == ids(rule.select(data, scores, size))
    assert len(batch) == min(size, len(data)) or (pool and 1 <= len(batch) <= size)
    assert batch == sorted(set(batch), key=lambda name: int(name[1:]))
    assert set(batch) <= set(ids(data))


@given(parent=SCORES, candidate=SCORES)
def test_best_accepts_exactly_a_higher_mean(parent: list[float], candidate: list[float]) -> None:
    decision = Best().decide(parent, candidate)
    assert decision.accept == (decision.numbers["after"] > decision.numbers["before"])
    assert Best().decide(candidate, candidate).accept is False


def test_best_rejects_if_nothing_was_scored() -> None:
    assert not Best().decide([], []).accept


def test_always_accepts_without_scores() -> None:
    assert Always.needs_scores is False
    assert Always().decide([], []).accept


def test_rules_are_given_by_object_by_name_or_by_path(own_rules: None) -> None:
    config = AlignmentConfig(batch=Hardest(pool_factor=6), gate="alignment_rules:Careful:margin=0.3")
    assert config.gate_rule.margin == 0.3  # type: ignore[attr-defined]
    assert config.as_dict()["batch"] == "hardest:pool_factor=6"
    assert config.as_dict()["gate"] == "alignment_rules:Careful:margin=0.3"
    again = AlignmentConfig(**config.as_dict())
    assert again.batch_rule == config.batch_rule
    assert again.as_dict() == config.as_dict()


def test_the_command_line_reads_the_same_registries() -> None:
    assert BATCH_RULES.names() == ["latest", "balanced", "hardest"]
    assert GATES.names() == ["always", "best", "evidence"]


def test_a_user_s_own_gate_and_batch_rule_decide(own_rules: None, tmp_path: Path) -> None:
    aligned = align(tmp_path, gate="alignment_rules:Careful", batch="alignment_rules:Oldest", batch_size=2)
    step = aligned.alignment.steps[0]
    assert [rollout.interaction_id for rollout in step.rollouts] == ["i0", "i1"]
    assert step.decision == Decision(accept=False, reason="gain 0.00")
    assert aligned.persona == "parent"
    assert aligned.alignment.as_dict()["config"]["gate"] == "alignment_rules:Careful"
    # Two rollouts of the batch, and two under the rewrite.
    assert aligned.alignment.n_rollouts == aligned.alignment.plan.n_rollouts == 4


def test_a_rule_that_breaks_its_contract_is_named(tmp_path: Path) -> None:
    class Twice(BatchSelector):
        def select(self, trainset: Sequence[Any], scores: Sequence[Any], size: int) -> list[Any]:
            return [trainset[0], trainset[0]]

    class Nothing(BatchSelector):
        def select(self, trainset: Sequence[Any], scores: Sequence[Any], size: int) -> list[Any]:
            return []

    for rule in (Twice(), Nothing()):
        with pytest.raises(ConfigError, match=f"batch rule '{type(rule).__name__}' must return 1 to 3"):
            align(tmp_path, batch=rule)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "maybe"}, "unknown gate 'maybe'; use one of always, best, evidence, or module:Class"),
        ({"batch": "json:JSONDecoder"}, "'json:JSONDecoder' is not a batch rule: it has no `pool_size`"),
        ({"gate": "no_such_module:Gate"}, "cannot load gate 'no_such_module:Gate'"),
        ({"batch": "hardest:pool=3"}, "batch rule 'hardest' has no setting `pool`; it has: pool_factor"),
        ({"batch": "hardest:pool_factor=many"}, "`pool_factor` cannot be 'many'"),
        ({"steps": -1}, "`steps` must be 0 or more, got -1"),
    ],
)
def test_a_wrong_rule_is_refused_before_a_call(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        AlignmentConfig(**options)
    assert message in str(error.value)


def test_a_gate_that_needs_no_scores_costs_no_rollout(tmp_path: Path) -> None:
    class Refuse(Gate):
        needs_scores: ClassVar[bool] = False

        def decide(self, parent: Sequence[float], candidate: Sequence[float]) -> Decision:
            assert (list(parent), list(candidate)) == ([], [])
            return Decision(accept=False, reason="never")

    aligned = align(tmp_path, gate=Refuse())
    assert aligned.alignment.n_rollouts == 3
    assert aligned.alignment.steps[0].decision.reason == "never"


@pytest.mark.parametrize(
    ("options", "trainset_size", "valset_size", "rollouts"),
    [
        # By hand: steps x n; plus the pool beyond the first batch; plus what the gate scores.
        ({}, 50, 0, 3),
        ({"steps": 2}, 50, 0, 6),
        ({"steps": 0, "batch": "hardest", "gate": "best"}, 50, 10, 0),
        ({"batch": "hardest"}, 50, 0, 12),
        ({"batch": "hardest"}, 7, 0, 7),
        ({"gate": "best"}, 50, 0, 6),
        ({"gate": "best", "steps": 2}, 50, 10, 36),
        ({"gate": "best", "batch": "hardest"}, 50, 0, 15),
        ({"batch_size": 5}, 2, 0, 2),
    ],
)
def test_the_plan_counts_rollouts(
    options: dict[str, Any], trainset_size: int, valset_size: int, rollouts: int
) -> None:
    plan = make_plan(
        AlignmentConfig(**options), trainset=trainset_size, valset=valset_size, calls_per_rollout=(1, 1)
    )
    assert plan.n_rollouts == rollouts
