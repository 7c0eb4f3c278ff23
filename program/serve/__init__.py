"""Serves personas: HTTP, an OpenAI-compatible address, MCP and a page (extra ``serve``)."""
