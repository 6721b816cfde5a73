"""What comes after training: evaluate, predict, explain the cost, export, time, plan."""
