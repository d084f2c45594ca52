"""Training: losses, schedules, the loop, distillation, checkpoints and devices."""
