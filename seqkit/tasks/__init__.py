"""One module a task; nothing else knows data, model, loss and metrics together."""
