"""What comes after training: evaluate, predict, explain the cost."""
