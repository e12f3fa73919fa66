"""What LangGraph and LangChain let us know about a call: its node, its run, its streams."""
