"""What this machine, or this container, lets the process have: processors and memory."""
