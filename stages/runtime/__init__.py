"""How a stage is started, spread over processes, watched and stopped; no output depends on it."""
