"""A network outside of training: exported, quantised, timed, chosen for a latency budget."""
