"""Drawing text from a model; knows a model only through initial_state() and step()."""
