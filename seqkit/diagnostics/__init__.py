"""What goes on inside a model, as numbers; ``plots/`` draws them."""
