"""The tool loop of an agent framework (pydantic-ai), over OpenAI's chat."""

from typing import Literal

import pytest
from conftest import MODEL
from pydantic import BaseModel
from pydantic_ai import Agent, ModelSettings
from pydantic_ai.capabilities import PrepareOutputTools, PrepareTools
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.output import ToolOutput
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits


@pytest.fixture
def model(server):
    return OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=server.url + "/v1", api_key="none"))


def test_an_agent_without_tools(model):
    agent = Agent(model, instructions="You list things.")
    settings = ModelSettings(max_tokens=24, temperature=0)
    result = agent.run_sync("List the months of the year.", model_settings=settings)
    assert "January, February" in result.output and result.usage.output_tokens == 24


class Report(BaseModel):
    city: Literal["Rome", "Oslo"]
    umbrella: bool


def test_the_tool_loop(model):
    """A model this small calls what it must: first the tool, then, with its result, the one that ends the run."""
    called = []
    first = PrepareTools(lambda _, tools: [] if called else tools)
    then = PrepareOutputTools(lambda _, tools: tools if called else [])
    agent = Agent(model, instructions="Use the tools.", output_type=ToolOutput(Report), capabilities=[first, then])

    @agent.tool_plain
    def weather(city: Literal["Rome", "Oslo"]) -> str:
        """The weather of a city."""
        called.append(city)
        return "sunny, 30 degrees"

    settings = ModelSettings(max_tokens=80, temperature=0, parallel_tool_calls=False)
    ask = "Do I need an umbrella in Rome?"
    result = agent.run_sync(ask, model_settings=settings, usage_limits=UsageLimits(request_limit=4))
    assert len(called) == 1 and isinstance(result.output, Report)
    assert result.usage.requests == 2 and result.usage.tool_calls == 1
