"""One generation: what it is asked for, its events, and the callers that wait for them."""
