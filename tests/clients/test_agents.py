"""The tool loop of an agent framework (pydantic-ai), over OpenAI's chat."""

import pytest
from conftest import MODEL

pydantic_ai = pytest.importorskip("pydantic_ai")
from pydantic_ai import Agent, ModelSettings  # noqa: E402
from pydantic_ai.models.openai import OpenAIChatModel  # noqa: E402
from pydantic_ai.providers.openai import OpenAIProvider  # noqa: E402


@pytest.fixture
def model(server):
    return OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=server.url + "/v1", api_key="none"))


def test_an_agent_without_tools(model):
    agent = Agent(model, instructions="You list things.")
    result = agent.run_sync("List the months of the year.", model_settings=ModelSettings(max_tokens=24, temperature=0))
    assert "January, February" in result.output
    assert result.usage.output_tokens == 24


def test_the_tool_loop(model, tools):
    called = []
    agent = Agent(model, instructions="Use the tool.")

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        called.append(city)
        return "sunny, 30 degrees"

    from pydantic_ai.exceptions import UnexpectedModelBehavior, UsageLimitExceeded
    from pydantic_ai.usage import UsageLimits

    # A model this small is made to call once, and may then say what it likes.
    settings = ModelSettings(max_tokens=60, temperature=0, tool_choice="required")
    try:
        agent.run_sync("What is the weather in Rome?", model_settings=settings, usage_limits=UsageLimits(request_limit=2))
    except (UsageLimitExceeded, UnexpectedModelBehavior):
        pass  # it goes on calling: every answer is made to be a call
    assert called
