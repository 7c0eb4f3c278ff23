from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.contracts import Answer, EvalUser, UserView
from eval.methods.final_answer import final_answer
from eval.methods.membank import MemoryBank, _split_by_day
from eval.methods.profiles import profile_as_dict, restore_profile
from eval.methods.registry import BUILT_IN, METHODS, make_methods, split_specs, with_setting
from eval.methods.retrieval import make_memory
from eval.methods.simba import _max_steps
from program.agent import PersonaAgent
from program.errors import ConfigError, ModelSetupError, PersonaError, UnknownTaskError
from program.loop import AgentSettings, Step
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.semantic import Profile, count_facts
from program.models.replies import UnusableReply
from program.models.scripted import scripted_lm
from program.persona import GENERIC
from program.plugins import split_spec
from program.signatures import Act
from program.task import Task, get_task
from program.tools.toolset import ToolSet
from program.usage import UsageTracker, track_usage

Reply = Callable[[str, str], Any]


def serve(spec: str, data: EvalUser, task: Task, reply: Reply) -> tuple[list[Answer], dspy.LM, Any]:
    """Prepare a method for a user and answer the first query."""
    method = METHODS.make(spec)
    method.check(task)
    user = UserView(user_id=data.user_id, task=task, history=data.history, seed=0)
    lm = scripted_lm(reply)
    with track_usage(UsageTracker(), lm):
        learned = method.prepare(user)
        opened = method.open(user, learned)
        answers = [method.answer(opened, query) for query in data.queries[:1]]
    return answers, lm, learned


def prompts(lm: Any) -> list[tuple[str, str]]:
    return list(lm.engine.prompts)


@pytest.mark.parametrize("form", ["examples", "findings"])
@pytest.mark.parametrize("name", ["LaMP-2M", "LaMP-4"])
def test_agent_and_baselines_share_the_final_prompt_after_steps(
    name: str, form: str, make_user: Callable[..., EvalUser]
) -> None:
    """A comparison must not measure the answer format, even if the agent finishes within a step."""

    def reply(system: str, user: str) -> Any:
        if "`action`" in user:
            n_steps = user.count("gave:")
            actions = [{"tool": "search_memory", "query": "rain"}, {"tool": "read_profile"}]
            return {"thought": "", "action": [*actions, {"tool": "finish", "answer": "comedy"}][n_steps]}
        return {"answer": "comedy"} if "`answer`" in user else "comedy"

    task = get_task(name)
    user = make_user("anna")
    answers, lm, _ = serve(f"personaagent-persona:prose=false,history={form}", user, task, reply)
    assert [step["tool"] for step in answers[0].steps] == ["search_memory", "read_profile"]
    alone = scripted_lm(reply)
    with track_usage(UsageTracker(), alone):
        final_answer(
            task,
            user.queries[0].text,
            steps=[Step(**step) for step in answers[0].steps],
            shown={item.id: item for item in user.history},
            settings=AgentSettings(history=form),
        )
    assert alone.engine.conversations == lm.engine.conversations[-1:]
    assert len(prompts(lm)) == 4


def test_agent_and_baselines_share_the_final_prompt(movies: Task, obliging: Reply) -> None:
    by_agent, by_method = scripted_lm(obliging), scripted_lm(obliging)
    agent = PersonaAgent(task=movies, memory=EpisodicMemory("u", []), persona=GENERIC, tools=ToolSet([]))
    with track_usage(UsageTracker(), by_agent):
        agent(query="a film about rain")
    with track_usage(UsageTracker(), by_method):
        final_answer(movies, "a film about rain")
    assert prompts(by_agent) == prompts(by_method)


def test_answer_outside_labels_is_kept_as_invalid(movies: Task) -> None:
    with track_usage(UsageTracker(), scripted_lm(lambda system, user: '{"answer": "Comedy!"}')):
        answer = final_answer(movies, "a film")
    assert (answer.valid, "Comedy!" in answer.text) == (False, True)


@pytest.mark.parametrize("spec", ["rag:k=2", "pag:k=2", "icl:k=2", "membank:k=2,days=2"])
def test_findings_look_like_the_agents_tools(
    spec: str, movies: Task, make_user: Callable[..., EvalUser], obliging: Reply
) -> None:
    answers, lm, _ = serve(f"{spec},history=findings", make_user("anna"), movies, obliging)
    system, user = prompts(lm)[-1]
    assert GENERIC in system
    steps = user.split("[[ ## steps ## ]]")[1].split("[[ ## query ## ]]")[0]
    assert steps.count("| anna watched") == 2
    assert "tag: comedy |" in steps or "tag: action |" in steps
    assert answers[0].text == "comedy"


@pytest.mark.parametrize("spec", ["rag:k=2", "pag:k=2", "icl:k=2", "membank:k=2,days=2", "grounded:k=2"])
def test_methods_show_history_as_examples_in_the_form_of_the_query(
    spec: str, movies: Task, make_user: Callable[..., EvalUser], obliging: Reply
) -> None:
    _, lm, _ = serve(spec, make_user("anna"), movies, obliging)
    final = lm.engine.conversations[-1]
    *examples, query = re.findall(r"\[\[ ## query ## \]\]\n(.*)", final)
    assert len(examples) == 2
    assert all(example.startswith("anna watched") for example in examples)
    assert query.startswith("anna asks")
    answers = re.findall(r'"answer": "(\w+)"', final)
    assert len(answers) == 2
    assert set(answers) <= {"comedy", "action", "classic"}
    assert "tag: " not in final


def test_icl_shows_latest_interactions(
    movies: Task, make_user: Callable[..., EvalUser], obliging: Reply
) -> None:
    answers, _, _ = serve("icl:k=2", make_user("anna", history=6), movies, obliging)
    assert [number for number in "012345" if f"watched {number}" in answers[0].steps[0]["observation"]] == [
        "4",
        "5",
    ]


def test_pag_stores_summary_and_restores_profile(
    movies: Task, make_user: Callable[..., EvalUser], obliging: Reply
) -> None:
    answers, lm, learned = serve("pag", make_user("anna"), movies, obliging)
    assert len(prompts(lm)) == 2
    assert learned["profile"]["prose"] == "a text for profile"
    assert "a text for profile" in answers[0].steps[0]["observation"]
    assert "This user has answered 6 times" in answers[0].steps[0]["observation"]


def test_react_calls_tools_before_it_answers(
    movies: Task, make_user: Callable[..., EvalUser], obliging: Reply
) -> None:
    answers, lm, _ = serve("react", make_user("anna"), movies, obliging)
    assert len(prompts(lm)) == 3  # A search, the end of the search, the answer.
    assert "anna watched" in answers[0].steps[0]["trajectory"]["observation_0"]
    assert "[[ ## answer" not in prompts(lm)[0][1]


def test_react_answers_after_unparsable_step(
    movies: Task, make_user: Callable[..., EvalUser], capfd: pytest.CaptureFixture[str]
) -> None:
    def reply(system: str, user: str) -> str:
        return "gibberish" if "next_tool_name" in user else '{"answer": "comedy"}'

    answers, lm, _ = serve("react", make_user("anna"), movies, reply)
    assert (answers[0].text, len(prompts(lm))) == ("comedy", 2)
    assert "gibberish" not in capfd.readouterr().err


def test_membank_summarises_days_then_user(
    movies: Task, make_user: Callable[..., EvalUser], obliging: Reply
) -> None:
    answers, lm, learned = serve("membank:days=3", make_user("anna"), movies, obliging)
    assert learned == {"summaries": ["a text for summary"] * 3, "portrait": "a text for portrait"}
    assert len(prompts(lm)) == 3 + 1 + 1
    assert "a text for portrait\n- a text for summary" in answers[0].steps[0]["observation"]


def test_membank_recalls_raise_retention(movies: Task, make_user: Callable[..., EvalUser]) -> None:
    user = make_user("anna", history=3)
    user = UserView(user_id="anna", task=movies, history=user.history, seed=0)
    bank = MemoryBank(k=1, retrieval="bm25", strength=2.0).open(user, {"summaries": [], "portrait": ""})
    # Texts are alike, so each day recalls the day before it: item 0 on day 1, item 1 on day 2.
    assert bank.retention == pytest.approx(
        {"anna-h0": math.exp(-2 / 3), "anna-h1": math.exp(-1 / 3), "anna-h2": math.exp(-1 / 2)}
    )


def test_membank_groups_undated_interactions(make_user: Callable[..., EvalUser]) -> None:
    undated = [replace(item, timestamp=None) for item in make_user("anna", history=5).history]
    assert [len(day) for day in _split_by_day(undated, 2)] == [2, 2, 1]
    assert [len(day) for day in _split_by_day(make_user("anna", history=3).history, 2)] == [1, 1, 1]


@pytest.mark.parametrize("spec", ["gepa", "miprov2", "simba"])
@pytest.mark.parametrize("runs", [24, 33])
def test_dspy_optimizer_stays_within_rollout_budget_and_prints_nothing(
    spec: str,
    runs: int,
    movies: Task,
    make_user: Callable[..., EvalUser],
    obliging: Reply,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _, _, learned = serve(f"{spec}:runs={runs}", make_user("anna"), movies, obliging)
    assert 9 <= learned["agent_runs"] <= runs
    assert learned["persona"]
    assert capfd.readouterr() == ("", "")


def test_gepa_returns_persona_with_better_answers(movies: Task, make_user: Callable[..., EvalUser]) -> None:
    def reply(system: str, user: str) -> Any:
        if "write the new system prompt" in user:
            assert "The user really said 'action'" in user
            return "This user loves action."
        if "`action`" in user:
            return {"thought": "look", "action": {"tool": "search_memory", "query": "rain"}}
        if "write the profile" in user:
            return "someone"
        return {"answer": "action" if "loves action" in system else "comedy"}

    user = make_user("anna", labels="action")
    answers, _, learned = serve("gepa", user, movies, reply)
    assert learned["persona"] == "This user loves action."
    assert answers[0].text == "action"


@pytest.mark.parametrize("spec", ["gepa", "miprov2", "simba"])
def test_outage_of_rollouts_ends_dspy_optimizer(
    spec: str, movies: Task, make_user: Callable[..., EvalUser], obliging: Reply
) -> None:
    n_actions = 0

    def reply(system: str, user: str) -> Any:
        nonlocal n_actions
        n_actions += "`action`" in user
        if n_actions > 20:
            raise dspy.lm15.ServerError("down")
        return obliging(system, user)

    with pytest.raises(dspy.LMServerError):
        serve(spec, make_user("anna"), movies, reply)


@pytest.mark.parametrize("spec", ["gepa", "miprov2", "simba"])
def test_outage_of_proposals_ends_dspy_optimizer(
    spec: str, movies: Task, make_user: Callable[..., EvalUser], obliging: Reply
) -> None:
    """GEPA and SIMBA catch errors of their own calls and return the initial persona."""

    n_answers = 0

    def reply(system: str, user: str) -> Any:
        nonlocal n_answers
        fields = re.findall(r"`(\w+)`", user.rsplit("Reply with a JSON object", 1)[-1])
        if fields == ["answer"]:
            # Alternately right and wrong, because SIMBA proposes only if rollouts differ.
            n_answers += 1
            return {"answer": "action" if n_answers % 2 else "comedy"}
        if fields == ["thought", "action"] or "write the profile" in user:
            return obliging(system, user)
        raise dspy.lm15.ServerError("down")

    with pytest.raises(dspy.LMServerError):
        serve(spec, make_user("anna", labels="action"), movies, reply)


def test_gepa_proposes_with_prompt_model(
    movies: Task, make_user: Callable[..., EvalUser], obliging: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    strong = scripted_lm(lambda system, user: "This user loves action.")
    monkeypatch.setattr(
        "eval.methods.dspy_optimizer.DspyOptimizerMethod._load_prompt_model",
        lambda self, seed: strong if self.prompt_model == "strong" else None,
    )
    user = make_user("anna", labels="action")
    _, lm, _ = serve("gepa:prompt_model=strong", user, movies, obliging)
    assert prompts(strong)
    assert not any("write the new system prompt" in text for _, text in prompts(lm))


def test_memory_indexes_the_field_that_lamp_indexes(make_user: Callable[..., EvalUser]) -> None:
    labels = "a headline about whales,a headline about rain,a headline about snow"
    user = make_user("anna", labels=labels)
    user = UserView(user_id="anna", task=get_task("LaMP-4"), history=user.history, seed=0)
    best = make_memory(user).search("whales", 1)
    assert best[0].response == "a headline about whales"


def test_bm25_has_lamps_words_on_lamps_tasks_and_unicode_words_on_others() -> None:
    past = [
        Interaction(id=str(n), user_id="ana", query=text, response="r")
        for n, text in enumerate(["Sushi, please", "緑茶を飲む", "plain rice"])
    ]

    def best(task: str, query: str) -> str:
        user = UserView(user_id="ana", task=get_task(task), history=past, seed=0)
        return make_memory(user, "bm25").search(query, 1)[0].id

    # LaMP splits at white space, so no word matches and the newest comes first.
    assert (best("LaMP-3", "sushi"), best("LaMP-3", "緑茶")) == ("2", "2")
    assert best("LaMP-3", "Sushi,") == "0"
    assert (best("free-text", "sushi"), best("free-text", "緑茶")) == ("0", "1")


def test_hybrid_is_the_same_on_lamps_tasks_as_everywhere_and_the_default() -> None:
    past = [
        Interaction(id=str(n), user_id="ana", query=text, response="r")
        for n, text in enumerate(["Sushi, please", "緑茶を飲む", "plain bread"])
    ]
    for task in ("LaMP-3", "free-text"):
        user = UserView(user_id="ana", task=get_task(task), history=past, seed=0)
        for memory in (make_memory(user), make_memory(user, "hybrid")):
            assert [memory.search(query, 1)[0].id for query in ("sushi", "緑茶")] == ["0", "1"]


def test_spec_sets_settings(movies: Task) -> None:
    methods = make_methods(["rag:k=8,retrieval=recency,direct", "personaagent:steps=0,prose=false"], movies)
    assert list(methods) == ["rag:k=8,retrieval=recency", "direct", "personaagent:steps=0,prose=false"]
    assert dict(methods["rag:k=8,retrieval=recency"].settings()) == {
        "k": 8,
        "retrieval": "recency",
        "item_chars": 300,
        "history": "examples",
        "last": "similar",
    }
    settings = methods["personaagent:steps=0,prose=false"].settings()
    assert (settings["steps"], settings["prose"]) == (0, False)


def test_defaults_apply_to_methods_that_have_them(movies: Task) -> None:
    methods = make_methods(["direct,personaagent"], movies, {"prompt_model": "embedded"})
    assert methods["personaagent"].settings()["prompt_model"] == "embedded"
    assert methods["direct"].settings() == {"history": "examples"}


def test_unknown_default_is_refused_and_spec_wins_over_default(movies: Task) -> None:
    methods = make_methods(["direct,rag,icl:k=2"], movies, {"k": "8"})
    assert [methods[label].settings().get("k") for label in methods] == [None, 8, 2]
    with pytest.raises(ConfigError, match="none of the methods has a setting `max_stepz`"):
        make_methods(["direct,rag"], movies, {"max_stepz": "2"})


def test_floors_are_baselines_that_fit_the_task() -> None:
    assert list(make_methods(["floors"], get_task("LaMP-3"))) == [
        "constant",
        "global-majority",
        "user-majority",
        "user-median",
    ]
    assert list(make_methods(["floors"], get_task("LaMP-1"))) == ["constant", "cited-before"]
    assert list(make_methods(["floors"], get_task("LaMP-4"))) == ["lead"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nobody", "unknown method 'nobody'; use one of constant"),
        ("rag:q=1", "no setting `q`; it has: k, item_chars, history, last, retrieval"),
        ("rag:k=many", "`k` cannot be 'many'"),
        ("rag:k=0", "`k` must be at least 1, got 0"),
        ("rag:retrieval=magic", "unknown `retrieval` 'magic'"),
        ("personaagent:choice=all", "unknown batch rule 'all'; use one of latest, balanced, hardest"),
        ("gepa:runs=3", "`runs` of at least 4 times"),
        ("no_such_module:Method", "cannot load method"),
        ("json:JSONDecoder", "is not a method: it has no `name`"),
        ("rag,rag", "named twice"),
        ("", "name at least one"),
    ],
)
def test_wrong_spec_reports_one_line_error(spec: str, message: str, movies: Task) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_methods([spec], movies)
    assert "\n" not in str(caught.value)


def test_own_method_is_loaded_by_module_and_class(
    movies: Task, make_user: Callable[..., EvalUser], own_module: Callable[[str, str], None]
) -> None:
    own_module(
        "my_methods",
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from eval.contracts import Answer, Query, UserView\n"
        "from eval.methods.base import BaseMethod\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Newest(BaseMethod):\n"
        "    name: ClassVar[str] = 'newest'\n"
        "    back: int = 1\n"
        "    def answer(self, prepared: UserView, query: Query) -> Answer:\n"
        "        return Answer(text=prepared.history[-self.back].response)\n",
    )
    method = make_methods(["my_methods:Newest:back=2"], movies)["my_methods:Newest:back=2"]
    assert (method.name, dict(method.settings())) == ("newest", {"back": 2})
    user = make_user("anna", labels="comedy,action")
    view = UserView(user_id="anna", task=movies, history=user.history, seed=0)
    assert method.answer(method.open(view, method.prepare(view)), user.queries[0]).text == "comedy"


def test_final_answer_stores_steps_as_dicts(movies: Task, obliging: Reply) -> None:
    step = Step(thought="", tool="search_memory", arguments={"query": "x"}, observation="seen")
    with track_usage(UsageTracker(), scripted_lm(obliging)):
        answer = final_answer(movies, "q", steps=[step])
    assert answer.steps[0]["arguments"] == {"query": "x"}


def test_unparsable_rollouts_leave_initial_persona(movies: Task, make_user: Callable[..., EvalUser]) -> None:
    user = make_user("anna", labels="action")
    answers, _, learned = serve("personaagent:prose=false", user, movies, lambda *_: "{{{ no")
    assert learned["persona"] == learned["persona_initial"]
    assert learned["agent_runs"] == 3
    assert "could be read" in learned["note"]
    assert not any(answer.valid for answer in answers)


def test_unknown_prompt_model_is_refused(movies: Task) -> None:
    for method in ("personaagent", "gepa", "miprov2"):
        with pytest.raises(ModelSetupError, match="unknown model 'nonsense'"):
            make_methods([f"{method}:prompt_model=nonsense"], movies)


def test_module_that_fails_to_import_reports_one_line_error(
    movies: Task, own_module: Callable[[str, str], None]
) -> None:
    own_module("broken_method", "1 / 0\n")
    with pytest.raises(ConfigError, match="cannot load method 'broken_method:X': division by zero"):
        make_methods(["broken_method:X"], movies)
    with pytest.raises(UnknownTaskError, match="cannot load task 'broken_method:X': division by zero"):
        get_task("broken_method:X")


def test_membank_prefers_retention_over_rank(movies: Task, make_user: Callable[..., EvalUser]) -> None:
    user = make_user("anna", history=4)
    view = UserView(user_id="anna", task=movies, history=user.history, seed=0)
    bank = MemoryBank(k=2, retrieval="bm25").open(view, {"summaries": [], "portrait": ""})
    ids = [item.id for item in bank.memory.search("rainy", 4)]

    def recall(*retention: float) -> list[str]:
        weighted = replace(bank, retention=dict(zip(ids, retention, strict=True)))
        return [item.id for item in weighted.recall("anna asks about a rainy day", 2)]

    # Weights are retention / rank: 0.5, 0.25, 0.17, 0.12 keep the order of the search.
    assert recall(0.5, 0.5, 0.5, 0.5) == sorted(ids[:2])
    # 0.1, 0.05, 0.3, 0.2: the third and the fourth result win.
    assert recall(0.1, 0.1, 0.9, 0.8) == sorted(ids[2:])


def test_membank_without_history_calls_no_model_to_prepare(
    movies: Task, make_user: Callable[..., EvalUser], obliging: Reply
) -> None:
    answers, lm, learned = serve("membank", make_user("anna", history=0), movies, obliging)
    assert learned == {"summaries": [], "portrait": ""}
    assert len(prompts(lm)) == 1
    assert "Nothing is known about this user yet." in answers[0].steps[0]["observation"]


@pytest.mark.parametrize("name", [name for name, path in BUILT_IN.items() if "baselines" not in path])
def test_user_without_history_gets_an_answer(
    name: str, movies: Task, make_user: Callable[..., EvalUser], obliging: Reply
) -> None:
    answers, _, _ = serve(name, make_user("anna", history=0), movies, obliging)
    assert [answer.text for answer in answers] == ["comedy"]


def test_profile_is_restored_with_current_counts(movies: Task, make_user: Callable[..., EvalUser]) -> None:
    user = make_user("anna")
    view = UserView(user_id="anna", task=movies, history=user.history, seed=0)
    facts = count_facts(user.history, movies.response_type)
    profile = Profile(facts=facts, prose="Loves rain.", interaction_ids=("anna-h1", "anna-h0"))
    saved = json.loads(json.dumps(profile_as_dict(profile)))
    assert saved == {"prose": "Loves rain.", "interaction_ids": ["anna-h1", "anna-h0"]}
    assert restore_profile(saved, view) == profile


@pytest.mark.parametrize("batches", range(7, 60))
def test_simba_uses_its_budget_and_never_more(batches: int) -> None:
    def cost(steps: int) -> int:
        """Count 5 batches for each step, and one for each of up to 3 final programs."""
        return 5 * steps + min(steps + 1, 3)

    steps = _max_steps(batches)
    assert cost(steps) <= batches < cost(steps + 1)


names = st.sampled_from(["rag", "icl", "mine:Method", "a.b:C"])
keys = st.sampled_from(["k", "retrieval", "gate", "back"])
values = st.sampled_from(["8", "dense", "mine:Careful", "mine:Careful:margin=0.1", "-1.5"])
settings = st.dictionaries(keys, values, max_size=3)


def to_spec(name: str, chosen: dict[str, str]) -> str:
    return ":".join([name, *filter(None, [",".join(f"{k}={v}" for k, v in chosen.items())])])


@given(st.lists(st.tuples(names, settings), max_size=4))
def test_specs_joined_by_commas_are_split_again(methods: list[tuple[str, dict[str, str]]]) -> None:
    specs = [to_spec(*method) for method in methods]
    assert list(split_specs([",".join(specs)])) == specs
    assert list(split_specs([f" {spec} ," for spec in specs])) == specs
    assert [split_spec(spec) for spec in specs] == methods


@given(names, settings, keys, values)
def test_with_setting_changes_one_setting(name: str, chosen: dict[str, str], key: str, value: str) -> None:
    spec = with_setting(to_spec(name, chosen), key, value)
    assert split_spec(spec) == (name, {**chosen, key: value})


def test_every_built_in_method_recreates_itself_from_its_spec() -> None:
    for name in BUILT_IN:
        method = METHODS.make(name)
        assert (METHODS.spec_of(method), method.name) == (name, name)
        assert METHODS.make(METHODS.spec_of(method)) == method


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_settings_are_json(name: str) -> None:
    settings = dict(METHODS.make(name).settings())
    assert json.loads(json.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (PersonaError("the text is empty"), "the text is empty"),
        (UnusableReply(Act, "the reply was cut"), "the reply was cut"),
    ],
)
def test_optimizer_state_of_failed_persona_keeps_initial_persona(
    error: Exception,
    note: str,
    movies: Task,
    make_user: Callable[..., EvalUser],
    obliging: Reply,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: Any, *args: Any) -> str:
        raise error

    monkeypatch.setattr("eval.methods.gepa.Gepa._compile", fail)
    _, _, learned = serve("gepa", make_user("anna"), movies, obliging)
    assert learned["persona"] == learned["persona_initial"]
    assert note in learned["note"]
    assert learned["agent_runs"] == 0
