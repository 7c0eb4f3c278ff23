"""No prompt of a method shows another user's text, a gold, a later item, or another query."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from eval.contracts import EvalUser, Query
from eval.manifest import make_manifest
from eval.methods.registry import BUILT_IN, make_methods
from eval.runner import Limits, run_methods
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.task import get_task

START = datetime(2024, 1, 1, tzinfo=timezone.utc)
PROMPTING = [name for name, path in BUILT_IN.items() if "baselines" not in path]
USERS = ("anna", "bert", "carl")
HISTORY, QUERIES = 5, 2


def headline_writer(name: str) -> EvalUser:
    """Each text names its user, its kind and its number."""
    return EvalUser(
        user_id=name,
        history=tuple(
            Interaction(
                id=f"h{i}",
                user_id=name,
                query=f"{name}-story-{i} rain",
                response=f"{name}-headline-{i}",
                timestamp=START + timedelta(days=i),
            )
            for i in range(HISTORY)
        ),
        queries=tuple(
            Query(
                id=f"q{i}",
                user_id=name,
                text=f"{name}-query-{i} rain",
                gold=f"{name}-gold-{i}",
                timestamp=START + timedelta(days=30),
            )
            for i in range(QUERIES)
        ),
    )


def prompts_of(
    name: str,
    out: Path,
    reply: Callable[[str, str], Any],
    *,
    task_name: str = "LaMP-4",
    make: Callable[[str], EvalUser] = headline_writer,
) -> list[str]:
    task = get_task(task_name)
    methods = make_methods([name], task)
    lm = scripted_lm(reply)
    data = [make(user) for user in USERS]
    outcome = run_methods(
        data,
        methods,
        task=task,
        manifest=make_manifest(task=task, data={}, methods=methods, lm=lm),
        out=out,
        lm=lm,
        limits=Limits(threads=3),
    )
    assert outcome.complete, outcome
    return list(lm.engine.conversations)


@pytest.mark.parametrize("name", PROMPTING)
def test_text_prompt_shows_one_user_and_one_query(
    name: str, tmp_path: Path, obliging: Callable[[str, str], Any]
) -> None:
    prompts = prompts_of(name, tmp_path, obliging)
    assert sum("-query-" in prompt for prompt in prompts) >= len(USERS) * QUERIES
    assert any("-headline-" in prompt for prompt in prompts) == (name != "direct")
    for prompt in prompts:
        assert len(set(re.findall(r"(anna|bert|carl)-", prompt))) <= 1, "two users in one prompt"
        assert "-gold-" not in prompt
        assert len(set(re.findall(r"-query-\d", prompt))) <= 1, "two queries in one prompt"


@pytest.mark.parametrize("name", PROMPTING)
def test_label_prompt_shows_one_user_and_one_query(
    name: str, tmp_path: Path, obliging: Callable[[str, str], Any], make_user: Callable[..., EvalUser]
) -> None:
    prompts = prompts_of(name, tmp_path, obliging, task_name="LaMP-2M", make=make_user)
    assert sum(" asks " in prompt for prompt in prompts) >= len(USERS) * 3
    for prompt in prompts:
        assert len(set(re.findall(r"(anna|bert|carl)", prompt))) <= 1, "two users in one prompt"
        assert len(set(re.findall(r"asks \d", prompt))) <= 1, "two queries in one prompt"


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name not in PROMPTING])
def test_baseline_calls_no_model(
    name: str, tmp_path: Path, obliging: Callable[[str, str], Any], make_user: Callable[..., EvalUser]
) -> None:
    task_name = {"cited-before": "LaMP-1", "lead": "LaMP-4", "user-median": "LaMP-3"}.get(name, "LaMP-2M")

    def make(user: str) -> EvalUser:
        return make_user(user, labels="5,3" if name == "user-median" else "comedy,action")

    assert prompts_of(name, tmp_path, obliging, task_name=task_name, make=make) == []


@pytest.mark.parametrize("name", PROMPTING)
def test_rollout_prompt_shows_only_earlier_items(
    name: str, tmp_path: Path, obliging: Callable[[str, str], Any]
) -> None:
    rollouts = 0
    for prompt in prompts_of(name, tmp_path, obliging):
        # The last query is what is asked; those before it are examples.
        queries = re.findall(r"(?:\[\[ ## query ## \]\]|\nQuery:)\n\w+-(story|query)-(\d)", prompt)
        if not queries or queries[-1][0] == "query" or "new system prompt" in prompt:
            continue
        rollouts += 1
        number = int(queries[-1][1])
        assert all(int(digit) < number for digit in re.findall(r"-headline-(\d)", prompt))
        assert all(int(digit) <= number for digit in re.findall(r"-story-(\d)", prompt))
    optimizes = name in (
        "personaagent",
        "grounded",
        "personaagent-memory",
        "personaagent-action",
        "gepa",
        "miprov2",
        "simba",
    )
    assert (rollouts > 0) == optimizes


def test_memory_ablation_shows_no_history_with_query(
    tmp_path: Path, obliging: Callable[[str, str], Any]
) -> None:
    query_prompts = [p for p in prompts_of("personaagent-memory", tmp_path, obliging) if "-query-" in p]
    assert query_prompts
    assert not any("-headline-" in prompt or "-story-" in prompt for prompt in query_prompts)


def test_a_control_answers_under_the_persona_of_another_user(
    tmp_path: Path, obliging: Callable[[str, str], Any], make_user: Callable[..., EvalUser]
) -> None:
    def make(user: str) -> EvalUser:
        return make_user(user, labels={"anna": "comedy", "bert": "action", "carl": "classic"}[user])

    spec = "personaagent-alignment:persona_of=other,tools=false"
    prompts = prompts_of(spec, tmp_path, obliging, task_name="LaMP-2M", make=make)
    for user, tag in (("anna", "action"), ("bert", "classic"), ("carl", "action")):
        asked = [prompt for prompt in prompts if f"{user} asks" in prompt]
        assert len(asked) == 3
        assert all(f"Most frequent answers: {tag} (6)" in prompt for prompt in asked)


def test_without_tools_the_persona_alone_answers(
    tmp_path: Path, obliging: Callable[[str, str], Any], make_user: Callable[..., EvalUser]
) -> None:
    prompts = prompts_of(
        "grounded:steps=0,tools=false,prose=false", tmp_path, obliging, task_name="LaMP-2M", make=make_user
    )
    assert len(prompts) == len(USERS) * 3
    assert not any("watched" in prompt for prompt in prompts)
