"""The training loop and what it steers: optimizers, schedules, precision, state."""
