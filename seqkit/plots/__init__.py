"""Pictures of numbers that exist already: files, and drawings for a terminal."""
