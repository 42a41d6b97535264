"""Recipes: typed schema, YAML 1.2 reading with positions, overrides, the shipped library."""
