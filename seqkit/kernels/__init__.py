"""What a step of decoding does beside its matrix products, in C: compiled where there is a compiler, once a machine."""
