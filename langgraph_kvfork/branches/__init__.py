"""One generation: what it is asked for, its events, and whoever waits for them."""
