"""The textual loss and the update: the paper's LLM_grad and LLM_update (its appendix B).

The wording is our own, the slots are the paper's: the loss sees question, expected answer and
response but not the persona; the update sees the persona and all feedback at once.
"""

from __future__ import annotations

import dspy


class TextualLoss(dspy.Signature):  # type: ignore[misc]
    """You are a meticulous and critical evaluator of personalized AI agents.

    Compare the agent's response with what this user really answered, and give feedback on how the
    agent's system prompt should change so that it fits this user's own traits better. Be concise.
    - Say which search words the agent should send to its tools for this user.
    - Take the user's earlier interactions and preferences into account.
    - State explicitly what the feedback shows about the user, in words that hold beyond this question.
    """

    question: str = dspy.InputField(desc="what the agent was asked")
    expected_answer: str = dspy.InputField(desc="what the user really answered")
    agent_response: str = dspy.InputField(desc="what the agent answered")
    feedback: str = dspy.OutputField(desc="how to change the system prompt for this user")


class UpdatePersona(dspy.Signature):  # type: ignore[misc]
    """You refine the system prompt of a personal agent.

    Rewrite the current system prompt in the light of the feedback. The new one must state this
    user's unique preferences, tell the agent to align its answers with them, include a detailed
    profile of the user, and stay helpful and clear. Keep what is right in the current one, above all
    its facts about the user and its rules for tools. Return the whole new system prompt.
    """

    current_system_prompt: str = dspy.InputField()
    feedback: str = dspy.InputField(desc="numbered feedback on several answers")
    new_system_prompt: str = dspy.OutputField(desc="the whole new system prompt, nothing else")
